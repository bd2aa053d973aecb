//! Neural networks of the sizes that fit beside a table: dense and LSTM layers, dropout, Adam, mean
//! squared error, in `f32`.
//!
//! Everything is a function of seed and rows alone: no threads, one fixed order for every sum, and
//! [`math`] instead of a platform's transcendental functions. All parameters of a network lie in one
//! vector, layer by layer; a layer knows its place there and its shape. Matrices are row-major, a
//! batch has one row per example, and sequences are stored step by step (`[step][example][column]`).

pub mod adam;
pub mod dense;
pub mod dropout;
pub mod fit;
pub mod lstm;
pub mod math;
pub mod quantised;
pub mod random;

pub use adam::Adam;
pub use dense::{Activation, Dense};
pub use fit::{Budget, Ended, FitOptions, Network, Report, fit};
pub use lstm::Lstm;
pub use random::Random;
