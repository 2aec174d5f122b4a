//! Fixed hashes for `client-hash`: the same client and the same server names give the same server after a
//! reload, a restart and on another node. std's hasher promises none of that.

use std::net::IpAddr;

/// FNV-1a over the name, then mixed: FNV alone leaves names such as `db1` and `db2` close together.
pub(super) fn name_key(name: &str) -> u64 {
    mix(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }))
}

/// `splitmix64`'s finalizer: a bijection in which every input bit moves every output bit.
pub(super) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The client as a number; `::ffff:10.0.0.1` is `10.0.0.1`, whichever listener it came through.
pub(super) fn client_key(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(v4) => mix(u64::from(v4.to_bits())),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            mix(mix((bits >> 64) as u64) ^ bits as u64)
        }
    }
}

/// -log2(u) for u = (hash + 1) / 2^64, in units of 2^-40.
///
/// Weighted rendezvous: if u is uniform, -log(u) / weight is exponential with rate `weight`, and the
/// smallest of several exponentials belongs to each with probability weight / total. Hence exact shares,
/// and a change of one weight moves only that member's clients. Computed digit by digit by squaring: integers
/// give the same order on every machine, libm's `ln` need not.
pub(super) fn rendezvous_cost(hash: u64) -> u128 {
    const DIGITS: u32 = 40;
    // x in [1, 2^64]; log2(x) = whole + fraction.
    let x = u128::from(hash) + 1;
    let whole = x.ilog2();
    // Mantissa in [1, 2) with 63 binary places.
    let mut mantissa = ((x << 63) >> whole) as u64;
    let mut log = u128::from(whole);
    for _ in 0..DIGITS {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let carry = square >> 64;
        mantissa = (square >> carry) as u64;
        log = (log << 1) | carry;
    }
    (64_u128 << DIGITS) - log
}
