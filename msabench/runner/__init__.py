"""From a suite to jobs, and their execution."""
