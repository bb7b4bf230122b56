//! Kubernetes quantities as numbers: `500m`, `1.5Gi`, `2e3`.
//!
//! Grammar: `k8s.io/apimachinery/pkg/api/resource`, type `Quantity`.

/// Billionths, the finest unit that Kubernetes distinguishes.
const NANO: i128 = 1_000_000_000;

/// The value in billionths, rounded up as Kubernetes does; `None` if `text` is no quantity or beyond its range.
#[must_use]
pub(crate) fn nanos(text: &str) -> Option<i128> {
    let digits_end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(digits_end)?;
    let (sign, number) = match number.strip_prefix('-') {
        Some(number) => (-1, number),
        None => (1, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (base, power) = scale(suffix)?;
    let decimals = 9 - i32::try_from(fraction.len()).ok()?;
    let (up, down) = if base == 10 { (decimals + power, 0) } else { (decimals, power) };
    let mut value = mantissa.checked_mul(2_i128.checked_pow(u32::try_from(down).ok()?)?)?;
    if up >= 0 {
        value = value.checked_mul(10_i128.checked_pow(u32::try_from(up).ok()?)?)?;
    } else {
        let divisor = 10_i128.checked_pow(up.unsigned_abs())?;
        value = value.checked_add(divisor - 1)? / divisor;
    }
    value.checked_mul(sign)
}

/// The value in whole units, rounded up.
#[must_use]
pub(crate) fn units(text: &str) -> Option<i128> {
    Some(nanos(text)?.checked_add(NANO - 1)? / NANO)
}

/// Base and exponent of a suffix.
fn scale(suffix: &str) -> Option<(u8, i32)> {
    let scale = match suffix {
        "n" => (10, -9),
        "u" => (10, -6),
        "m" => (10, -3),
        "" => (10, 0),
        "k" => (10, 3),
        "M" => (10, 6),
        "G" => (10, 9),
        "T" => (10, 12),
        "P" => (10, 15),
        "E" => (10, 18),
        "Ki" => (2, 10),
        "Mi" => (2, 20),
        "Gi" => (2, 30),
        "Ti" => (2, 40),
        "Pi" => (2, 50),
        "Ei" => (2, 60),
        _ => (10, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_the_same_value_are_equal() {
        for same in [
            &["500m", "0.5", ".5", "+0.500", "5e-1", "500000u"][..],
            &["1Gi", "1024Mi", "1073741824", "1.0Gi"],
            &["1.5Gi", "1536Mi"],
            &["2k", "2e3", "2E3", "2000"],
            &["-1", "-1000m"],
        ] {
            let values: Vec<_> = same.iter().map(|text| nanos(text).unwrap_or_else(|| panic!("{text}"))).collect();
            assert!(values.iter().all(|value| value == &values[0]), "{same:?}: {values:?}");
        }
    }

    #[test]
    fn invalid_quantity_is_none() {
        for text in [
            "",
            ".",
            "m",
            "1 Gi",
            "1gi",
            "1GiB",
            "--1",
            "1.2.3",
            "e3",
            "1e",
            "half",
            "1e99",
            "9999999999999999999999Ei",
        ] {
            assert_eq!(nanos(text), None, "{text}");
        }
    }

    #[test]
    fn fractions_are_rounded_up() {
        assert_eq!(units("1.5Gi"), Some(1_610_612_736));
        assert_eq!(units("1500m"), Some(2));
        assert_eq!(units("0.0000000001"), Some(1));
    }
}
