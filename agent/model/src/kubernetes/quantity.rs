//! Kubernetes' quantities of bytes.

use thiserror::Error;

/// A number of bytes, as a resource quantity says it: `1500Mi`, `2G`, `0.5Gi`, `1e9`.
/// Source: k8s.io/apimachinery/pkg/api/resource, `Quantity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteQuantity(pub u64);

/// Why a text is no number of bytes.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a quantity of bytes such as 1500Mi or 2Gi, below 2^63")]
pub struct ByteQuantityError;

/// Suffix and how many bytes it stands for. `m`, thousandths, is left out: nobody has a part of a byte.
const SUFFIXES: &[(&str, u64)] = &[
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
];

impl TryFrom<&str> for ByteQuantity {
    type Error = ByteQuantityError;

    fn try_from(text: &str) -> Result<Self, ByteQuantityError> {
        let suffix = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
        let (number, factor) = suffix.unwrap_or((text, 1));
        let (number, exponent) = match number.split_once(['e', 'E']) {
            Some((number, exponent)) if factor == 1 => (number, exponent.parse().map_err(|_| ByteQuantityError)?),
            _ => (number, 0_u32),
        };
        let scale = 10_u128.checked_pow(exponent).ok_or(ByteQuantityError)?;
        let bytes = scaled(number, u128::from(factor).checked_mul(scale).ok_or(ByteQuantityError)?)?;
        u64::try_from(bytes).ok().filter(|bytes| *bytes < 1 << 63).map(Self).ok_or(ByteQuantityError)
    }
}

/// A decimal number times a factor, rounded up to a whole.
fn scaled(number: &str, factor: u128) -> Result<u128, ByteQuantityError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    let plain = !digits.is_empty() && digits.len() <= 20 && digits.bytes().all(|digit| digit.is_ascii_digit());
    let value: u128 =
        if plain { digits.parse().map_err(|_| ByteQuantityError)? } else { return Err(ByteQuantityError) };
    let divisor = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| ByteQuantityError)?);
    Ok(value.checked_mul(factor).ok_or(ByteQuantityError)?.div_ceil(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, bytes) in [
            ("1500Mi", 1_572_864_000),
            ("2Gi", 2_147_483_648),
            ("2G", 2_000_000_000),
            ("0.5Gi", 536_870_912),
            ("1.5", 2),
            ("1e9", 1_000_000_000),
            ("12", 12),
            ("5k", 5000),
            ("0", 0),
        ] {
            assert_eq!(ByteQuantity::try_from(text), Ok(ByteQuantity(bytes)), "{text}");
        }
        for text in ["", "Mi", "1Xi", "-1", "1e99", "9999999Pi", "1.2.3", " 1", "1 Mi", "+1", "100m"] {
            assert_eq!(ByteQuantity::try_from(text), Err(ByteQuantityError), "{text}");
        }
    }
}
