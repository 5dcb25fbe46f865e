"""What Dagster needs from us: partitions and batches, event storage, the instance, hand-logged materializations."""
