//! The envelope of everything that is stored, and a reader that cannot fail badly.
//!
//! Layout, little-endian: magic `ANOM`, format version u16, algorithm id u16, payload length u32,
//! CRC-32 of bytes 4..12 and the payload u32, payload. A reader refuses a newer format, a foreign
//! algorithm, a length that is not exactly what follows, and a wrong checksum; it never allocates
//! from a length it has not compared with the bytes at hand.

use crate::{Error, Result};

const MAGIC: [u8; 4] = *b"ANOM";
const HEADER: usize = 16;

/// Version of the envelope and of every payload inside it.
pub const FORMAT: u16 = 1;

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

/// Starts an envelope in `out`, to be closed with [`seal`] after the payload was appended.
pub fn open(out: &mut Vec<u8>, algorithm: u16) -> usize {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&algorithm.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    start
}

/// Writes length and checksum of the envelope that [`open`] began at `start`.
pub fn seal(out: &mut [u8], start: usize) -> Result<()> {
    let length = out.len() - start - HEADER;
    let length = u32::try_from(length)
        .map_err(|_| Error::TooLarge(format!("a state of {length} bytes exceeds 4 GiB")))?;
    out[start + 8..start + 12].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(&out[start + 4..start + 12], &out[start + HEADER..]);
    out[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// Wraps a payload.
pub fn wrap(algorithm: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(HEADER + payload.len());
    let start = open(&mut out, algorithm);
    out.extend_from_slice(payload);
    seal(&mut out, start)?;
    Ok(out)
}

/// The algorithm id and payload of an envelope, checked.
pub fn unwrap(bytes: &[u8]) -> Result<(u16, &[u8])> {
    let mut reader = Reader::new(bytes);
    if reader.take(4)? != MAGIC {
        return Err(Error::Corrupted("stored state does not start with its magic number".into()));
    }
    let format = reader.u16()?;
    let algorithm = reader.u16()?;
    let length = reader.u32()?;
    let crc = reader.u32()?;
    if format > FORMAT {
        return Err(Error::NewerFormat(format!(
            "stored state has format {format}, this version reads up to {FORMAT}"
        )));
    }
    if format == 0 {
        return Err(Error::Corrupted("stored state has format 0".into()));
    }
    let payload = reader.rest();
    if payload.len() as u64 != u64::from(length) {
        return Err(Error::Corrupted(format!(
            "stored state has {} payload bytes instead of {length}",
            payload.len()
        )));
    }
    if checksum(&bytes[4..12], payload) != crc {
        return Err(Error::Corrupted("model checksum mismatch".into()));
    }
    Ok((algorithm, payload))
}

/// `\x` and the bytes in hexadecimal, as PostgreSQL writes bytea.
pub fn to_text(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Vec::with_capacity(2 + 2 * bytes.len());
    text.extend_from_slice(b"\\x");
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
    text
}

/// Reads what [`to_text`] wrote, and capital digits; `None` for anything else. Allocates half the
/// text's length at most.
pub fn from_text(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |c: u8| Some((c as char).to_digit(16)? as u8);
    let (pairs, rest) = text.strip_prefix(b"\\x")?.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// Appends a number in groups of seven bits, the lowest first: small ones take a byte.
pub fn put_varint(out: &mut Vec<u8>, mut v: u32) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Reads little-endian fields; every read is checked against what is left.
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes }
    }

    pub fn corrupted(&self, what: &str) -> Error {
        Error::Corrupted(format!("stored state: {what}"))
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// The next byte, if there is one, without taking it.
    pub fn peek(&self) -> Option<u8> {
        self.bytes.first().copied()
    }

    /// Takes everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.bytes.split_at_checked(n).ok_or_else(|| {
            Error::Corrupted(format!("stored state ends {} bytes early", n - self.bytes.len()))
        })?;
        self.bytes = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// What [`put_varint`] wrote.
    pub fn varint(&mut self) -> Result<u32> {
        let mut v = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            v |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return u32::try_from(v).map_err(|_| self.corrupted("number out of range"));
            }
        }
        Err(self.corrupted("number out of range"))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// Any f64, NaN and infinities included.
    pub fn f64(&mut self) -> Result<f64> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// A finite f64.
    pub fn finite(&mut self, what: &str) -> Result<f64> {
        let v = self.f64()?;
        if v.is_finite() { Ok(v) } else { Err(self.corrupted(&format!("{what} is not finite"))) }
    }

    /// A finite f64 ≥ 0.
    pub fn non_negative(&mut self, what: &str) -> Result<f64> {
        let v = self.finite(what)?;
        if v >= 0.0 { Ok(v) } else { Err(self.corrupted(&format!("{what} is negative"))) }
    }

    /// Nothing may be left over.
    pub fn finish(&self) -> Result<()> {
        if self.bytes.is_empty() {
            Ok(())
        } else {
            Err(Error::Corrupted(format!("stored state has {} bytes too many", self.bytes.len())))
        }
    }
}
