"""Where events come from: one folder or module per source."""
