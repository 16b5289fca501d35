"""The workers: what each process reports, where, and whether all are drained."""
