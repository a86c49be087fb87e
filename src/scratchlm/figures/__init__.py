"""Draw figures of logs and models; drawing needs the extra `viz`."""
