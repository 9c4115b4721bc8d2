"""What lives in a worker: the candidate for the lease, and the record of each run."""
