"""Who is in a federation of orchestrators, pipelines and stores.

JSON names are exactly the field names; unknown fields of newer peers are passed over.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from market_data_core.telemetry import HealthState


class FederationModel(BaseModel):
    """Base of the messages of this module: frozen, and without NaN, which JSON cannot carry."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class ClusterId(FederationModel):
    """Names a cluster.

    Attributes:
        value: At least one character; its case is kept.
    """

    value: str = Field(min_length=1)


class NodeId(FederationModel):
    """Names a node within a cluster.

    Attributes:
        value: At least one character; its case is kept.
    """

    value: str = Field(min_length=1)


class NodeRole(StrEnum):
    """What a node does."""

    ORCHESTRATOR = "orchestrator"
    PIPELINE = "pipeline"
    STORE = "store"


class Region(FederationModel):
    """Where a cluster runs.

    Attributes:
        name: Such as ``local`` or ``eu-central-1``.
        zone: Part of the region, or None where there is but one.
    """

    name: str
    zone: str | None = None


class NodeStatus(FederationModel):
    """How a node is.

    Attributes:
        node_id: Which node.
        role: What it does.
        health: How it was when last seen.
        version: Version of its software.
        last_seen_ts: Seconds since the epoch, UTC.
    """

    node_id: NodeId
    role: NodeRole
    health: HealthState
    version: str
    last_seen_ts: float


class ClusterTopology(FederationModel):
    """The nodes of a cluster.

    Attributes:
        cluster_id: Which cluster.
        region: Where it runs.
        nodes: Its nodes, the answering one included.
    """

    cluster_id: ClusterId
    region: Region
    nodes: list[NodeStatus] = Field(default_factory=list)
