//! Users who have to use several methods.

use serde_json::Value;

use crate::token::methods::Methods;
use crate::users::User;

/// The rules of a user that bind, each as the bits of its methods. A rule asks for those of its methods that are served; one that names none
/// binds nobody, as upstream: nobody is locked out by a word.
fn rules(methods: &Methods, user: &User) -> Vec<u32> {
    if user.options.get("multi_factor_auth_enabled").and_then(Value::as_bool) == Some(false) {
        return Vec::new();
    }
    let rules = user.options.get("multi_factor_auth_rules").and_then(Value::as_array);
    let bits = |rule: &Vec<Value>| rule.iter().filter_map(Value::as_str).fold(0, |all, name| all | methods.bit(name));
    rules.into_iter().flatten().filter_map(Value::as_array).map(bits).filter(|rule| *rule != 0).collect()
}

/// Whether what a user has proved is enough: some rule is met, or there is none.
pub(super) fn is_enough(methods: &Methods, user: &User, used: u32) -> bool {
    let rules = rules(methods, user);
    rules.is_empty() || rules.iter().any(|rule| used & rule == *rule)
}

/// The rules that a user has begun to meet: of the others a stranger with one secret hears nothing.
pub(super) fn begun<'a>(methods: &'a Methods, user: &User, used: u32) -> Vec<Vec<&'a str>> {
    rules(methods, user).into_iter().filter(|rule| rule & used != 0).map(|rule| methods.names(rule)).collect()
}
