//! How much to send: in frames a second, or in bits a second of an Ethernet link.

use std::str::FromStr;

/// Bytes of an Ethernet link that each frame takes up beside itself: FCS 4, preamble 8, gap 12 (IEEE 802.3).
pub const ETHERNET: f64 = 24.0;

/// A rate as the user gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Frames a second; 0: as many as possible.
    Frames(u64),
    /// Bits a second on an Ethernet link.
    Bits(f64),
}

impl Rate {
    /// Frames a second, where frames have `length` bytes on average, without FCS. At least one.
    pub fn frames(self, length: f64) -> u64 {
        match self {
            Rate::Frames(frames) => frames,
            Rate::Bits(bits) => ((bits / 8.0 / (length + ETHERNET)).round() as u64).max(1),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    /// Reads "20000", "1.5M", "250k", "10Gbit" or "100Mbit".
    fn from_str(s: &str) -> Result<Rate, String> {
        let wrong = || {
            format!("\"{s}\" is not a rate: give frames a second (20000, 250k, 1.5M), or a line rate (100Mbit, 10Gbit)")
        };
        let (number, bits) = s.strip_suffix("bit").map_or((s, false), |number| (number, true));
        let (number, unit) = match number.as_bytes().last() {
            Some(b'k') => (&number[..number.len() - 1], 1e3),
            Some(b'M') => (&number[..number.len() - 1], 1e6),
            Some(b'G') => (&number[..number.len() - 1], 1e9),
            _ => (number, 1.0),
        };
        // No exponents, signs or names of numbers.
        if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(wrong());
        }
        let value = number.parse::<f64>().map_err(|_| wrong())? * unit;
        if value > 1e13 || (bits && value == 0.0) || (!bits && value > 0.0 && value < 1.0) {
            return Err(wrong());
        }
        Ok(if bits { Rate::Bits(value) } else { Rate::Frames(value.round() as u64) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let frames = |s: &str, length| s.parse::<Rate>().unwrap().frames(length);
        assert_eq!(frames("0", 60.0), 0);
        assert_eq!(frames("20000", 60.0), 20_000);
        assert_eq!(frames("250k", 60.0), 250_000);
        assert_eq!(frames("1.5M", 60.0), 1_500_000);
        // The well-known figures of 10 Gbit Ethernet.
        assert_eq!(frames("10Gbit", 60.0), 14_880_952);
        assert_eq!(frames("10Gbit", 1514.0), 812_744);
        assert_eq!(frames("2.5Gbit", 60.0), 3_720_238);
        assert_eq!(frames("100Mbit", 60.0), 148_810);
        assert_eq!(frames("1bit", 60.0), 1);
    }

    #[test]
    fn no_rates() {
        for s in
            ["", "M", "-1", "1e6", "inf", "nan", "10G bit", "10GBit", "0Gbit", "0.5", "1.5.5M", "99999G", "bit", "1m"]
        {
            let error = s.parse::<Rate>().unwrap_err();
            assert!(error.contains(&format!("\"{s}\" is not a rate")), "{error}");
        }
    }
}
