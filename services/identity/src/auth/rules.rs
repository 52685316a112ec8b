//! Users who have to use several methods.

use base::Result;
use serde_json::Value;

use crate::fault;
use crate::token::methods::Methods;
use crate::users::User;

/// A user with rules for several methods must have met one of them.
pub(super) fn check(methods: &Methods, user: &User, used: u32) -> Result<()> {
    let rules = user.options.get("multi_factor_auth_rules").and_then(Value::as_array);
    let on = user.options.get("multi_factor_auth_enabled").and_then(Value::as_bool).unwrap_or(false);
    let (true, Some(rules)) = (on, rules) else { return Ok(()) };
    let mut known = rules.iter().filter_map(Value::as_array).filter_map(|rule| {
        let bits: Option<Vec<u32>> =
            rule.iter().map(|method| method.as_str().map(|name| methods.bit(name)).filter(|bit| *bit != 0)).collect();
        bits.map(|bits| bits.iter().fold(0, |all, bit| all | bit))
    });
    // Rules that name only methods which are not served bind nobody, as upstream.
    let mut any = false;
    if known.any(|rule| {
        any = true;
        used & rule == rule
    }) || !any
    {
        return Ok(());
    }
    Err(fault::unauthorized())
}
