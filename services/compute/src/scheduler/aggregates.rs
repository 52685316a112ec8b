//! Filters by the metadata of the aggregates a host is in.

use super::{HostState, Wish};

/// Flavors ask for aggregate metadata with extra specs under this scope; those without a scope are not taken for it.
const SCOPE: &str = "aggregate_instance_extra_specs:";
/// Aggregates whose metadata have keys with this beginning take servers of the named projects only.
const TENANTS: &str = "filter_tenant_id";

/// The values of a host's aggregates under a key; one entry may hold several, with commas between.
fn values<'a>(host: &'a HostState, fits: impl Fn(&str) -> bool + 'a) -> impl Iterator<Item = &'a str> {
    let entries = host.aggregates.iter().flatten().filter(move |(key, _)| fits(key));
    entries.flat_map(|(_, value)| value.split(',').map(str::trim))
}

pub fn extra_specs(host: &HostState, wish: &Wish) -> bool {
    let asked = wish.extra_specs.iter().filter_map(|(key, wanted)| Some((key.strip_prefix(SCOPE)?, wanted)));
    asked.into_iter().all(|(key, wanted)| values(host, |k| k == key).any(|value| matches(value, wanted)))
}

pub fn tenants(host: &HostState, wish: &Wish) -> bool {
    let mut named = values(host, |key| key.starts_with(TENANTS)).peekable();
    named.peek().is_none() || named.any(|project| project == wish.project_id)
}

/// Whether a value is what an extra spec asks for: an operator and its operand, or just the value.
fn matches(value: &str, wanted: &str) -> bool {
    let mut words = wanted.split_whitespace();
    let operator = words.next().unwrap_or_default();
    let rest: Vec<&str> = words.collect();
    let first = rest.first().copied();
    let numbers = |compare: fn(&f64, &f64) -> bool| match (value.parse::<f64>(), first.map(str::parse::<f64>)) {
        (Ok(value), Some(Ok(operand))) => compare(&value, &operand),
        _ => false,
    };
    let texts = |compare: fn(&str, &str) -> bool| first.is_some_and(|operand| compare(value, operand));
    match operator {
        "=" | ">=" => numbers(f64::ge),
        "<=" => numbers(f64::le),
        "==" => numbers(f64::eq),
        "!=" => numbers(f64::ne),
        "s==" => texts(|a, b| a == b),
        "s!=" => texts(|a, b| a != b),
        "s<" => texts(|a, b| a < b),
        "s<=" => texts(|a, b| a <= b),
        "s>" => texts(|a, b| a > b),
        "s>=" => texts(|a, b| a >= b),
        "<in>" => texts(|a, b| a.contains(b)),
        "<all-in>" => !rest.is_empty() && rest.iter().all(|part| value.contains(part)),
        // `<or> a <or> b`: every second word is an alternative.
        "<or>" => rest.iter().step_by(2).any(|alternative| *alternative == value),
        _ => value == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_compare_as_flavors_mean_them() {
        for (value, wanted, fits) in [
            ("ssd", "ssd", true),
            ("ssd", "hdd", false),
            ("8", "= 4", true),
            ("2", ">= 4", false),
            ("4", "== 4.0", true),
            ("4", "!= 4", false),
            ("x", "== 4", false),
            ("3", "<= 4", true),
            ("a", "s== a", true),
            ("a", "s!= a", false),
            ("a", "s< b", true),
            ("b", "s>= b", true),
            ("avx2 sse", "<in> avx", true),
            ("avx2 sse", "<all-in> avx sse", true),
            ("avx2 sse", "<all-in> avx mmx", false),
            ("b", "<or> a <or> b", true),
            ("c", "<or> a <or> b", false),
            ("c", "<or>", false),
            ("c", "<in>", false),
            ("", "", true),
        ] {
            assert_eq!(matches(value, wanted), fits, "{value} {wanted}");
        }
    }
}
