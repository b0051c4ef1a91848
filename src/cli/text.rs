//! Small texts of the command line: times, pairs, progress.
//!
//! Promises: a time prints as RFC 3339 in UTC; progress appears on a terminal only, and on standard error.
//! Does not: print answers.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a bar is drawn again, in milliseconds.
const PROGRESS_INTERVAL_MS: u64 = 100;
const MS_PER_DAY: u64 = 86_400_000;

/// Milliseconds since 1970 as `2005-04-07T22:13:13Z`, with milliseconds where there are any.
pub fn time_text(timestamp_ms: u64) -> String {
    // The proleptic Gregorian calendar from days, in eras of 400 years that begin on the first of March.
    let days = timestamp_ms / MS_PER_DAY + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let of_day = timestamp_ms % MS_PER_DAY;
    let (hour, minute, second, ms) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60, of_day % 1_000);
    let fraction = if ms == 0 { String::new() } else { format!(".{ms:03}") };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Parses `key=value`.
///
/// # Errors
/// A sentence for the person.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".to_owned()),
    }
}

/// A bar for work whose amount is known, `what` per second beside it.
pub fn bar(total: u64, what: &str) -> ProgressBar {
    let template = format!("{{msg}} {{wide_bar}} {{human_pos}}/{{human_len}} {what} {{per_sec}} {{eta}}");
    progress(ProgressBar::new(total), &template)
}

/// A counter for work whose amount is not known.
pub fn counter(what: &str) -> ProgressBar {
    progress(ProgressBar::no_length(), &format!("{{msg}} {{human_pos}} {what} {{per_sec}}"))
}

fn progress(bar: ProgressBar, template: &str) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    bar.set_draw_target(target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if !bar.is_hidden() {
        bar.enable_steady_tick(Duration::from_millis(PROGRESS_INTERVAL_MS));
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s0_2_times_print_as_rfc_3339() {
        let check = |ms, text: &str| assert_eq!(time_text(ms), text);
        check(0, "1970-01-01T00:00:00Z");
        check(1, "1970-01-01T00:00:00.001Z");
        check(951_782_400_000, "2000-02-29T00:00:00Z");
        check(1_112_911_993_000, "2005-04-07T22:13:13Z");
        check(4_102_444_799_999, "2099-12-31T23:59:59.999Z");
        check(MS_PER_DAY * 365, "1971-01-01T00:00:00Z");
        assert!(time_text(u64::MAX).ends_with('Z'));
    }

    #[test]
    fn s0_2_labels_are_pairs() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("a="), Ok(("a".to_owned(), String::new())));
        assert!(pair("=b").is_err() && pair("ab").is_err());
    }
}
