"""The gateway of a server: nginx with TLS, sign-in, roles and an audit log, and the upload into the inbox.

Runs in the image that deploy/gateway/Dockerfile makes, on what Debian brings and nothing else: nginx for all that
needs speed, Python's standard library for what nginx cannot do.
"""
