//! `numeric` as its exact text.

use super::results::{Bytes, Malformed};

/// Reads the binary form: digits to the base of 10,000, the first worth `10000 ^ weight`, shown with `scale` decimals.
pub(super) fn text(mut raw: Bytes<'_>) -> Result<String, Malformed> {
    let count = raw.u16()?;
    let weight = i32::from(raw.i16()?);
    let sign = raw.u16()?;
    let scale = usize::from(raw.u16()?);
    match sign {
        0xC000 => return Ok("NaN".to_owned()),
        0xD000 => return Ok("Infinity".to_owned()),
        0xF000 => return Ok("-Infinity".to_owned()),
        0 | 0x4000 => {}
        _ => return Err(Malformed),
    }
    let digits = (0..count).map(|_| raw.u16()).collect::<Result<Vec<_>, _>>()?;
    if digits.iter().any(|&digit| digit > 9999) {
        return Err(Malformed);
    }
    let digit = |place: i32| {
        // `place` counts from the decimal point: 0 is the group just before it, -1 the one just behind.
        let index = usize::try_from(weight - place).ok();
        index.and_then(|index| digits.get(index)).copied().unwrap_or(0)
    };
    let mut out = String::new();
    if sign == 0x4000 {
        out.push('-');
    }
    if weight < 0 {
        out.push('0');
    } else {
        out.push_str(&digit(weight).to_string());
        for place in (0..weight).rev() {
            out.push_str(&format!("{:04}", digit(place)));
        }
    }
    if scale > 0 {
        let mut fraction = String::new();
        let mut place = -1;
        while fraction.len() < scale {
            fraction.push_str(&format!("{:04}", digit(place)));
            place -= 1;
        }
        fraction.truncate(scale);
        out.push('.');
        out.push_str(&fraction);
    }
    Ok(out)
}
