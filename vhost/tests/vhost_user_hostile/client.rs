//! The same where Dray is the client, and its peer the server.
