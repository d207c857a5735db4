"""A machine of one's own with little memory, for what must not be tried on a shared one."""
