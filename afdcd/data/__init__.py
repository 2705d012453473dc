"""Sources, the manifest that prepare makes of them, transforms, and training batches."""
