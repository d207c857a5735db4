"""Pure: no clock, no I/O, no third party."""
