"""Other people's test suites, run at a server and through the proxy in front of an equal one."""
