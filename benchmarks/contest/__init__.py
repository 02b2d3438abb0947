"""The service beside other servers and the compute alone, in one run: ``make bench``."""
