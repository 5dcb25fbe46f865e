"""What a server needs around the pipeline: who may start containers, what is measured, how it is backed up."""
