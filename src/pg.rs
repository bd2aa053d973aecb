//! Everything that touches PostgreSQL's C interface. The only place where `unsafe` is allowed.
