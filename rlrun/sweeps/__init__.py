"""Many runs by one command: planned, launched here or on a cluster, and told afterwards."""
