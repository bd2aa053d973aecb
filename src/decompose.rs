//! `decompose(series, periods)`: trend, seasons and what is left over.

use anomaly_core::seasonality::{self, Options};
use pgrx::{pg_sys::panic::ErrorReport, prelude::*};

use crate::{
    detect_periods::values,
    error::{from_core, invalid, required},
    pg::interrupts::Interrupts,
};

/// Decomposes equally spaced values by (M)STL; NULL, NaN and infinite elements are missing values.
///
/// # Errors
/// 22023 for periods or windows out of range, 54000 for more than ten million elements.
#[allow(clippy::type_complexity)]
#[pg_extern(immutable, parallel_safe)]
fn decompose(
    series: Option<Vec<Option<f64>>>,
    periods: default!(Option<Vec<Option<i32>>>, "NULL"),
    robust: default!(Option<bool>, "true"),
    windows: default!(Option<Vec<Option<i32>>>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(i, i64),
            name!(value, Option<f64>),
            name!(trend, Option<f64>),
            name!(seasonals, Vec<Option<f64>>),
            name!(residual, Option<f64>),
        ),
    >,
    ErrorReport,
> {
    let series = values(required(series, "series")?);
    let robust = required(robust, "robust")?;
    let whole = |name: &str, given: Vec<Option<i32>>| {
        given
            .into_iter()
            .map(|v| v.and_then(|v| usize::try_from(v).ok()))
            .collect::<Option<Vec<usize>>>()
            .ok_or_else(|| {
                invalid(
                    format!("{name} holds NULL or a negative number"),
                    format!("give whole numbers, or leave out {name}"),
                )
            })
    };
    let periods = match periods {
        Some(given) => whole("periods", given)?,
        None => seasonality::detect_periods(&series).iter().map(|p| p.length).collect(),
    };
    let windows = windows.map(|given| whole("windows", given)).transpose()?.unwrap_or_default();
    let options = Options { robust, windows, ..Options::default() };
    let parts = seasonality::decompose(&series, &periods, &options, &mut Interrupts::default())
        .map_err(from_core)?;
    let finite = |v: f64| v.is_finite().then_some(v);
    Ok(TableIterator::new((0..series.len()).map(move |i| {
        let seasonals = parts.seasonals.iter().map(|s| finite(s[i])).collect();
        (
            i as i64 + 1,
            finite(series[i]),
            finite(parts.trend[i]),
            seasonals,
            finite(parts.residual[i]),
        )
    })))
}

extension_sql!(
    r#"COMMENT ON FUNCTION decompose IS
'takes equally spaced values apart into trend, one season per period (ascending) and residual, by robust STL; without periods it finds them itself';"#,
    name = "decompose_comment",
    requires = [decompose]
);
