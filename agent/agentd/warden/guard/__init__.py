"""The guard at work: it measures, asks core.guard, and acts."""
