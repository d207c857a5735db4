"""The wire contract between agentctl and agentd: protos and checked-in stubs."""
