"""SQL for users: one SELECT over a tenant's tables, run in a confined child process."""
