//! Prints what one decision costs: `cargo run --release -p policy --example speed`.

use policy::{Enforcer, Policy, Rule, ScopeType};
use std::hint::black_box;
use std::time::Instant;

static RULES: &[Rule] = &[
    Rule::helper("context_is_admin", "role:admin", ""),
    Rule::helper("project_reader_api", "role:reader and project_id:%(project_id)s", ""),
    Rule::new("servers:show", "rule:context_is_admin or rule:project_reader_api", "", &[("GET", "/servers/{id}")])
        .scoped(&[ScopeType::Project]),
];

fn main() -> base::Result<()> {
    let policy = Policy::new(Enforcer::load(&[("identity", &[]), ("compute", &[RULES])], None)?);
    let ctx = base::Context {
        user_id: "u1".into(),
        scope: base::Scope::Project { id: "p1".into(), name: "web".into(), domain_id: "d".into(), domain_name: "D".into() },
        roles: vec!["manager".into(), "member".into(), "reader".into()],
        ..Default::default()
    };
    let json = serde_json::json!({"id": "s1", "project_id": "p1", "user_id": "u2"});
    let rounds = 1_000_000;
    for (name, target) in [("pairs", &[("project_id", "p1")] as &dyn policy::Target), ("json", &json)] {
        let start = Instant::now();
        let mut allowed = 0;
        for _ in 0..rounds {
            allowed += usize::from(policy.check("compute", "servers:show", black_box(&ctx), black_box(target)));
        }
        println!("{name}: {} ns a decision ({allowed} of {rounds} allowed)", start.elapsed().as_nanos() / rounds as u128);
    }
    Ok(())
}
