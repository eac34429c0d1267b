//! Dates, times and intervals as RFC 3339 and ISO 8601, over PostgreSQL's whole range (4713 BC to 294276 AD).

use super::results::{Bytes, Malformed};

const DAY: i64 = 86_400_000_000;

/// `2024-02-29T12:34:56.789Z`; without a zone for `timestamp`, which has none.
pub(super) fn timestamp(mut raw: Bytes<'_>, zoned: bool) -> Result<String, Malformed> {
    let micros = raw.i64()?;
    Ok(match micros {
        i64::MAX => "infinity".to_owned(),
        i64::MIN => "-infinity".to_owned(),
        _ => {
            let (day, rest) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
            format!("{}T{}{}", civil(day), clock(rest), if zoned { "Z" } else { "" })
        }
    })
}

/// `2024-02-29`
pub(super) fn date(mut raw: Bytes<'_>) -> Result<String, Malformed> {
    Ok(match raw.i32()? {
        i32::MAX => "infinity".to_owned(),
        i32::MIN => "-infinity".to_owned(),
        day => civil(day.into()),
    })
}

/// `12:34:56.789`
pub(super) fn time(mut raw: Bytes<'_>) -> Result<String, Malformed> {
    Ok(clock(raw.i64()?))
}

/// `12:34:56.789+02:00`
pub(super) fn time_with_zone(mut raw: Bytes<'_>) -> Result<String, Malformed> {
    let clock = clock(raw.i64()?);
    // The server counts seconds west of Greenwich.
    let east = -i64::from(raw.i32()?);
    let (sign, zone) = if east < 0 { ('-', -east) } else { ('+', east) };
    let mut out = format!("{clock}{sign}{:02}:{:02}", zone / 3600, zone / 60 % 60);
    if zone % 60 != 0 {
        out.push_str(&format!(":{:02}", zone % 60));
    }
    Ok(out)
}

/// `P1Y2M3DT4H5M6.5S`: each part with its own sign, as the server writes and reads it.
pub(super) fn interval(mut raw: Bytes<'_>) -> Result<String, Malformed> {
    let (micros, days, months) = (raw.i64()?, raw.i32()?, raw.i32()?);
    let mut out = "P".to_owned();
    for (n, unit) in [(months / 12, 'Y'), (months % 12, 'M'), (days, 'D')] {
        if n != 0 {
            out.push_str(&format!("{n}{unit}"));
        }
    }
    let (hours, minutes) = (micros / 3_600_000_000, micros / 60_000_000 % 60);
    let seconds = micros % 60_000_000;
    if micros != 0 {
        out.push('T');
        for (n, unit) in [(hours, 'H'), (minutes, 'M')] {
            if n != 0 {
                out.push_str(&format!("{n}{unit}"));
            }
        }
        if seconds != 0 {
            let sign = if seconds < 0 { "-" } else { "" };
            let fraction = fraction(seconds.abs() % 1_000_000);
            out.push_str(&format!("{sign}{}{fraction}S", seconds.abs() / 1_000_000));
        }
    }
    Ok(if out == "P" { "PT0S".to_owned() } else { out })
}

fn clock(micros: i64) -> String {
    let seconds = micros / 1_000_000;
    let fraction = fraction(micros % 1_000_000);
    format!("{:02}:{:02}:{:02}{fraction}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn fraction(micros: i64) -> String {
    if micros == 0 {
        return String::new();
    }
    format!(".{micros:06}").trim_end_matches('0').to_owned()
}

/// The date that is `day` days after 2000-01-01 (Gregorian throughout, as in PostgreSQL), by counting in eras of 400
/// years whose years begin in March, so that the leap day is the last of its year.
fn civil(day: i64) -> String {
    const ERA: i64 = 146_097;
    let shifted = day + 730_425;
    let (era, of_era) = (shifted.div_euclid(ERA), shifted.rem_euclid(ERA));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let sign = if year < 0 { "-" } else { "" };
    format!("{sign}{:04}-{month:02}-{day_of_month:02}", year.abs())
}
