"""Effects: one file a kernel facility or a file format; stdlib only."""
