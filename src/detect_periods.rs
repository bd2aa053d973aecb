//! `detect_periods(series)`: which periods a series has.

use anomaly_core::seasonality;
use pgrx::{pg_sys::panic::ErrorReport, prelude::*};

use crate::error::required;

/// The periods of equally spaced values, strongest first; NULL, NaN and infinite elements are missing
/// values. No rows where nothing repeats.
#[allow(clippy::type_complexity)]
#[pg_extern(immutable, parallel_safe)]
fn detect_periods(
    series: Option<Vec<Option<f64>>>,
) -> Result<
    TableIterator<'static, (name!(period, i64), name!(exact_period, f64), name!(strength, f64))>,
    ErrorReport,
> {
    let periods = seasonality::detect_periods(&values(required(series, "series")?));
    Ok(TableIterator::new(periods.into_iter().map(|p| (p.length as i64, p.exact, p.strength))))
}

/// NULL is a missing value, as NaN is.
pub fn values(series: Vec<Option<f64>>) -> Vec<f64> {
    series.into_iter().map(|v| v.unwrap_or(f64::NAN)).collect()
}

extension_sql!(
    r#"COMMENT ON FUNCTION detect_periods(double precision[]) IS
'up to four periods of equally spaced values, in elements, with the share of the variance that repeats';"#,
    name = "detect_periods_comment",
    requires = [detect_periods]
);
