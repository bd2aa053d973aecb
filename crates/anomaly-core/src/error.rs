//! The one error type of the core. The extension maps each variant to one SQLSTATE (`src/error.rs`).

/// What can go wrong. Messages are lower-case without a full stop and name the value and its limit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A parameter or option outside its range (SQLSTATE 22023).
    #[error("{message}")]
    InvalidParameter { message: String, hint: String },
    /// A result too large for its type (22003).
    #[error("{0}")]
    OutOfRange(String),
    /// Input of the wrong shape (22000).
    #[error("{0}")]
    Data(String),
    /// More rows, dimensions or bytes than the limit (54000).
    #[error("{0}")]
    TooLarge(String),
    /// Work that needs more memory than it may take (53200).
    #[error("{message}")]
    MemoryLimit { message: String, hint: String },
    /// Work that takes longer than it may (53400).
    #[error("{message}")]
    TimeLimit { message: String, hint: String },
    /// Stored bytes that do not decode (XX001).
    #[error("{0}")]
    Corrupted(String),
    /// Stored bytes of a newer format than this library reads (0A000).
    #[error("{0}")]
    NewerFormat(String),
    /// A known feature that this version does not implement yet (0A000).
    #[error("{0}")]
    Unsupported(String),
    /// The caller asked the work to stop (57014).
    #[error("stopped")]
    Stopped,
}

impl Error {
    pub fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::InvalidParameter { message: message.into(), hint: hint.into() }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
