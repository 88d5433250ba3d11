//! Shared-memory interfaces: memif (and later vhost-user).
