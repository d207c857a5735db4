"""The guard's policy: samples in, acts out. Pure; who measures and acts is the warden."""
