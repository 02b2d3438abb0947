"""Other servers, each as its own documentation recommends, for the job that ours does."""
