//! What everything here is compiled for, and whether the CPU is that: checked before `main`, since with link-time
//! optimization even the standard library's start is compiled for it. This file too is, so there must be nothing in it but a few
//! comparisons. The standard library's detection macro is of no use: what is enabled at compile time it takes for granted.
#![allow(unsafe_code)]

use std::arch::x86_64::__cpuid;

const MESSAGE: &[u8] =
    b"error: this CPU is too old: an x86-64-v3 is needed (AVX2, BMI1, BMI2, FMA, F16C, LZCNT, MOVBE), \
      Intel since Haswell, AMD since Excavator\n";

// SAFETY: the C library calls what is listed in this section before `main`, with C's calling convention. `require` needs
// nothing that is not there yet.
#[used]
#[unsafe(link_section = ".init_array")]
static REQUIRE: extern "C" fn() = require;

/// Ends the process with status 2 and says why, unless the CPU is an x86-64-v3 (x86-64 psABI, "Micro-Architecture
/// Levels").
extern "C" fn require() {
    if !is_v3() {
        // SAFETY: the message is that many bytes long; `_exit` runs nothing of ours.
        unsafe {
            libc::write(2, MESSAGE.as_ptr().cast(), MESSAGE.len());
            libc::_exit(2);
        }
    }
}

/// FMA, MOVBE, OSXSAVE, AVX, F16C: leaf 1, ECX (Intel SDM, volume 2, CPUID).
const LEAF1_ECX: u32 = 1 << 12 | 1 << 22 | 1 << 27 | 1 << 28 | 1 << 29;
/// BMI1, AVX2, BMI2: leaf 7, EBX.
const LEAF7_EBX: u32 = 1 << 3 | 1 << 5 | 1 << 8;
/// LZCNT: leaf 0x8000_0001, ECX.
const EXTENDED_ECX: u32 = 1 << 5;

#[inline(never)]
fn is_v3() -> bool {
    __cpuid(0).eax >= 7
        && __cpuid(1).ecx & LEAF1_ECX == LEAF1_ECX
        && __cpuid(7).ebx & LEAF7_EBX == LEAF7_EBX
        && __cpuid(0x8000_0001).ecx & EXTENDED_ECX == EXTENDED_ECX
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_one_is_new_enough() {
        assert!(super::is_v3(), "else this test would not run");
    }
}
