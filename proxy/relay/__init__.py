"""The only asyncio of the proxy: connections, logins and the hot path between a client and its backend."""
