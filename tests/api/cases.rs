//! The cases every route owes: refused to who has no right, malformed, and about something that does not exist. The requests
//! are derived from the table of routes. Whoever adds a route whose body needs something gives it a body in [`BODIES`];
//! a route that rightly answers otherwise is named in [`OPEN`] or [`ANY_ID`], and must not be named there without need.

use serde_json::{Value, json};
use testing::{Answer, Cloud, Token};

use crate::coverage::{UUID, filled, mount};

/// A body, as JSON text, that passes the checks that come before a right or a thing is looked for. `ID` is the unknown id.
const BODIES: &[(&str, &str, &str, &str)] = &[
    ("block-storage", "POST", "/volumes", r#"{"volume": {"size": 1}}"#),
    ("block-storage", "POST", "/snapshots", r#"{"snapshot": {"volume_id": "ID"}}"#),
    ("block-storage", "POST", "/os-volume-transfer", r#"{"transfer": {"volume_id": "ID"}}"#),
    ("block-storage", "POST", "/volume-transfers", r#"{"transfer": {"volume_id": "ID"}}"#),
    ("block-storage", "POST", "/os-volume-transfer/{id}/accept", r#"{"accept": {"auth_key": "x"}}"#),
    ("block-storage", "POST", "/volume-transfers/{id}/accept", r#"{"accept": {"auth_key": "x"}}"#),
    ("block-storage", "POST", "/attachments", r#"{"attachment": {"volume_uuid": "ID", "instance_uuid": "ID"}}"#),
    ("block-storage", "PUT", "/attachments/{id}", r#"{"attachment": {"connector": {"host": "x"}}}"#),
    ("block-storage", "POST", "/attachments/{id}/action", r#"{"os-complete": {}}"#),
    ("block-storage", "POST", "/snapshots/{id}/action", r#"{"os-reset_status": {"status": "error"}}"#),
    ("block-storage", "POST", "/volumes/{id}/action", r#"{"os-reset_status": {"status": "error"}}"#),
    ("block-storage", "POST", "/snapshots/{id}/metadata", r#"{"metadata": {"a": "b"}}"#),
    ("block-storage", "PUT", "/snapshots/{id}/metadata", r#"{"metadata": {"a": "b"}}"#),
    ("block-storage", "PUT", "/snapshots/{id}/metadata/{key}", r#"{"meta": {"ID": "b"}}"#),
    ("block-storage", "POST", "/volumes/{id}/metadata", r#"{"metadata": {"a": "b"}}"#),
    ("block-storage", "PUT", "/volumes/{id}/metadata", r#"{"metadata": {"a": "b"}}"#),
    ("block-storage", "PUT", "/volumes/{id}/metadata/{key}", r#"{"meta": {"ID": "b"}}"#),
    ("block-storage", "PUT", "/volumes/{id}", r#"{"volume": {"name": "x"}}"#),
    ("block-storage", "PUT", "/snapshots/{id}", r#"{"snapshot": {"name": "x"}}"#),
    ("block-storage", "PUT", "/types/{id}", r#"{"volume_type": {"name": "x"}}"#),
    ("block-storage", "POST", "/types/{id}/action", r#"{"addProjectAccess": {"project": "ID"}}"#),
    ("block-storage", "POST", "/types/{id}/encryption", r#"{"encryption": {"provider": "luks", "control_location": "front-end"}}"#),
    ("block-storage", "PUT", "/types/{id}/encryption/{key}", r#"{"encryption": {"provider": "luks", "control_location": "front-end"}}"#),
    ("block-storage", "POST", "/types/{id}/extra_specs", r#"{"extra_specs": {"a": "b"}}"#),
    ("block-storage", "PUT", "/types/{id}/extra_specs/{key}", r#"{"ID": "b"}"#),
    ("block-storage", "PUT", "/group_types/{id}", r#"{"group_type": {"name": "x"}}"#),
    ("block-storage", "POST", "/group_types/{id}/group_specs", r#"{"group_specs": {"a": "b"}}"#),
    ("block-storage", "PUT", "/group_types/{id}/group_specs/{key}", r#"{"ID": "b"}"#),
    ("block-storage", "PUT", "/qos-specs/{id}", r#"{"qos_specs": {"a": "b"}}"#),
    ("block-storage", "PUT", "/qos-specs/{id}/delete_keys", r#"{"keys": ["a"]}"#),
    ("platform", "POST", "/v1/ihosts", r#"{"hostname": "edge-1", "personality": "worker"}"#),
    ("platform", "PATCH", "/v1/ihosts/{id}", r#"[{"op": "replace", "path": "/action", "value": "lock"}]"#),
    ("platform", "PATCH", "/v1/isensors/{id}", r#"[{"op": "replace", "path": "/suppress", "value": "True"}]"#),
    ("platform", "PATCH", "/v1/isensorgroups/{id}", r#"[{"op": "replace", "path": "/suppress", "value": "True"}]"#),
    ("platform", "POST", "/v1/isensorgroups/relearn", r#"{"host_uuid": "ID"}"#),
    ("platform", "PATCH", "/v1/isystems/{id}", r#"[{"op": "replace", "path": "/name", "value": "x"}]"#),
    ("platform", "PATCH", "/v1/service_parameter/{id}", r#"[{"op": "replace", "path": "/value", "value": "100"}]"#),
    ("platform", "POST", "/v1/join_tokens", "{}"),
    ("instance-ha", "POST", "/v1/segments", r#"{"segment": {"name": "x", "recovery_method": "auto", "service_type": "COMPUTE"}}"#),
    ("instance-ha", "PUT", "/v1/segments/{segment_id}", r#"{"segment": {"name": "x"}}"#),
    ("instance-ha", "POST", "/v1/segments/{segment_id}/hosts", r#"{"host": {"name": "x", "type": "C", "control_attributes": "S"}}"#),
    ("instance-ha", "PUT", "/v1/segments/{segment_id}/hosts/{id}", r#"{"host": {"name": "x"}}"#),
    (
        "instance-ha",
        "POST",
        "/v1/notifications",
        r#"{"notification": {"type": "PROCESS", "hostname": "x", "generated_time": "2026-11-20T12:00:00Z",
            "payload": {"event": "STOPPED", "process_name": "x"}}}"#,
    ),
    ("compute", "POST", "/servers", r#"{"server": {"name": "x", "flavorRef": "x", "imageRef": "ID"}}"#),
    ("compute", "PUT", "/servers/{id}", r#"{"server": {"name": "x"}}"#),
    ("compute", "POST", "/servers/{id}/action", r#"{"os-stop": null}"#),
    ("compute", "POST", "/servers/{id}/metadata", r#"{"metadata": {"a": "b"}}"#),
    ("compute", "PUT", "/servers/{id}/metadata", r#"{"metadata": {"a": "b"}}"#),
    ("compute", "PUT", "/servers/{id}/metadata/{key}", r#"{"meta": {"ID": "b"}}"#),
    ("compute", "POST", "/servers/{id}/migrations/{migration}/action", r#"{"force_complete": null}"#),
    ("compute", "POST", "/servers/{id}/os-interface", r#"{"interfaceAttachment": {"port_id": "ID"}}"#),
    ("compute", "POST", "/servers/{id}/os-volume_attachments", r#"{"volumeAttachment": {"volumeId": "ID"}}"#),
    (
        "compute",
        "PUT",
        "/servers/{id}/os-volume_attachments/{volume}",
        r#"{"volumeAttachment": {"volumeId": "22222222-2222-4333-8444-555555555555"}}"#,
    ),
    ("compute", "POST", "/images/{id}/metadata", r#"{"metadata": {"a": "b"}}"#),
    ("compute", "PUT", "/images/{id}/metadata", r#"{"metadata": {"a": "b"}}"#),
    ("compute", "PUT", "/images/{id}/metadata/{key}", r#"{"meta": {"ID": "b"}}"#),
    ("compute", "POST", "/flavors/{id}/action", r#"{"addTenantAccess": {"tenant": "ID"}}"#),
    ("compute", "POST", "/flavors/{id}/os-extra_specs", r#"{"extra_specs": {"a": "b"}}"#),
    ("compute", "PUT", "/flavors/{id}/os-extra_specs/{key}", r#"{"ID": "b"}"#),
    ("compute", "PUT", "/os-aggregates/{id}", r#"{"aggregate": {"name": "x"}}"#),
    ("compute", "POST", "/os-aggregates/{id}/action", r#"{"add_host": {"host": "x"}}"#),
    ("compute", "PUT", "/os-services/{id}", r#"{"status": "enabled"}"#),
    ("compute", "PUT", "/os-hosts/{host}", r#"{"status": "enable"}"#),
    ("compute", "PUT", "/os-security-groups/{id}", r#"{"security_group": {"name": "x", "description": "x"}}"#),
    (
        "fault",
        "PUT",
        "/alarms/{id}",
        r#"{"alarm_id": "100.101", "alarm_state": "set", "entity_type_id": "host", "entity_instance_id": "host=x",
        "severity": "major", "reason_text": "x", "alarm_type": "operational-violation", "probable_cause": "threshold-crossed", "suppression": "False",
        "service_affecting": "False"}"#,
    ),
    ("fault", "PATCH", "/entity_suppression/{id}", r#"[{"op": "replace", "path": "/comment", "value": "x"}]"#),
    ("identity", "POST", "/v3/users", r#"{"user": {"name": "x"}}"#),
    ("identity", "PATCH", "/v3/users/{user_id}", r#"{"user": {"name": "x"}}"#),
    ("identity", "POST", "/v3/projects", r#"{"project": {"name": "x"}}"#),
    ("identity", "PATCH", "/v3/projects/{project_id}", r#"{"project": {"name": "x"}}"#),
    ("identity", "PUT", "/v3/projects/{project_id}/tags", r#"{"tags": ["a"]}"#),
    ("identity", "POST", "/v3/roles", r#"{"role": {"name": "x"}}"#),
    ("identity", "PATCH", "/v3/roles/{role_id}", r#"{"role": {"name": "x"}}"#),
    ("identity", "POST", "/v3/domains", r#"{"domain": {"name": "x"}}"#),
    ("identity", "PATCH", "/v3/domains/{domain_id}", r#"{"domain": {"name": "x"}}"#),
    ("identity", "POST", "/v3/groups", r#"{"group": {"name": "x"}}"#),
    ("identity", "PATCH", "/v3/groups/{group_id}", r#"{"group": {"name": "x"}}"#),
    ("identity", "POST", "/v3/credentials", r#"{"credential": {"blob": "x", "type": "cert", "user_id": "ID", "project_id": "ID"}}"#),
    ("identity", "PATCH", "/v3/credentials/{credential_id}", r#"{"credential": {"blob": "x"}}"#),
    ("identity", "PATCH", "/v3/policies/{policy_id}", r#"{"policy": {"blob": "x"}}"#),
    (
        "identity",
        "POST",
        "/v3/OS-TRUST/trusts",
        r#"{"trust": {"trustor_user_id": "ID", "trustee_user_id": "ID", "impersonation": false, "project_id": "ID", "roles": [{"id": "ID"}]}}"#,
    ),
    ("identity", "PATCH", "/v3/registered_limits/{registered_limit_id}", r#"{"registered_limit": {"description": "x"}}"#),
    ("identity", "PATCH", "/v3/limits/{limit_id}", r#"{"limit": {"description": "x"}}"#),
    ("identity", "PUT", "/v3/domains/{domain_id}/config", r#"{"config": {"identity": {"driver": "sql"}}}"#),
    ("identity", "PATCH", "/v3/domains/{domain_id}/config", r#"{"config": {"identity": {"driver": "sql"}}}"#),
    ("identity", "POST", "/v3/users/{user_id}/credentials/OS-EC2", r#"{"tenant_id": "ID"}"#),
    ("identity", "PATCH", "/v3/OS-OAUTH1/consumers/{consumer_id}", r#"{"consumer": {"description": "x"}}"#),
    ("identity", "PATCH", "/v3/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}", r#"{"endpoint_group": {"name": "x"}}"#),
    // A provider is made under the id in the path; what is missing is its domain.
    ("identity", "PUT", "/v3/OS-FEDERATION/identity_providers/{idp_id}", r#"{"identity_provider": {"domain_id": "ID"}}"#),
    ("identity", "PATCH", "/v3/OS-FEDERATION/identity_providers/{idp_id}", r#"{"identity_provider": {"enabled": true}}"#),
    (
        "identity",
        "PATCH",
        "/v3/OS-FEDERATION/mappings/{mapping_id}",
        r#"{"mapping": {"rules": [{"local": [{"user": {"name": "{0}"}}], "remote": [{"type": "x"}]}]}}"#,
    ),
    ("identity", "PATCH", "/v3/OS-FEDERATION/service_providers/{service_provider_id}", r#"{"service_provider": {"enabled": true}}"#),
    ("identity", "POST", "/v3/regions", r#"{"region": {"description": "x"}}"#),
    // A region is made under the id in the path; what is missing is the one above it.
    ("identity", "PUT", "/v3/regions/{region_id}", r#"{"region": {"parent_region_id": "none"}}"#),
    ("identity", "PATCH", "/v3/regions/{region_id}", r#"{"region": {"description": "x"}}"#),
    ("identity", "POST", "/v3/services", r#"{"service": {"type": "x"}}"#),
    ("identity", "PATCH", "/v3/services/{service_id}", r#"{"service": {"name": "x"}}"#),
    ("identity", "POST", "/v3/endpoints", r#"{"endpoint": {"interface": "public", "url": "http://x", "service_id": "ID"}}"#),
    ("identity", "PATCH", "/v3/endpoints/{endpoint_id}", r#"{"endpoint": {"interface": "public"}}"#),
    ("image", "PATCH", "/v2/images/{image_id}", r#"[{"op": "replace", "path": "/name", "value": "x"}]"#),
    ("image", "POST", "/v2/images/{image_id}/members", r#"{"member": "ID"}"#),
    ("image", "PUT", "/v2/images/{image_id}/members/{member_id}", r#"{"status": "accepted"}"#),
    ("image", "POST", "/v2/images/{image_id}/locations", r#"{"url": "file:///x"}"#),
    ("image", "POST", "/v2/images/{image_id}/import", r#"{"method": {"name": "glance-direct"}}"#),
    ("image", "POST", "/v2/metadefs/namespaces", r#"{"namespace": "x"}"#),
    ("image", "PUT", "/v2/metadefs/namespaces/{namespace}", r#"{"namespace": "x"}"#),
    ("image", "POST", "/v2/metadefs/namespaces/{namespace}/resource_types", r#"{"name": "x"}"#),
    ("image", "POST", "/v2/metadefs/namespaces/{namespace}/objects", r#"{"name": "x"}"#),
    ("image", "PUT", "/v2/metadefs/namespaces/{namespace}/objects/{object_name}", r#"{"name": "x"}"#),
    ("image", "POST", "/v2/metadefs/namespaces/{namespace}/properties", r#"{"name": "x", "title": "X", "type": "string"}"#),
    ("image", "PUT", "/v2/metadefs/namespaces/{namespace}/properties/{property_name}", r#"{"name": "x", "title": "X", "type": "string"}"#),
    ("image", "POST", "/v2/metadefs/namespaces/{namespace}/tags", r#"{"tags": []}"#),
    ("image", "PUT", "/v2/metadefs/namespaces/{namespace}/tags/{tag_name}", r#"{"name": "x"}"#),
    ("network", "POST", "/v2.0/networks", r#"{"network": {"name": "x"}}"#),
    ("network", "PUT", "/v2.0/networks/{id}", r#"{"network": {"name": "x"}}"#),
    ("network", "POST", "/v2.0/subnets", r#"{"subnet": {"network_id": "ID", "ip_version": 4, "cidr": "10.9.8.0/24"}}"#),
    ("network", "PUT", "/v2.0/subnets/{id}", r#"{"subnet": {"name": "x"}}"#),
    ("network", "POST", "/v2.0/ports", r#"{"port": {"network_id": "ID"}}"#),
    ("network", "PUT", "/v2.0/ports/{id}", r#"{"port": {"name": "x"}}"#),
    ("network", "POST", "/v2.0/routers", r#"{"router": {"name": "x"}}"#),
    ("network", "PUT", "/v2.0/routers/{id}", r#"{"router": {"name": "x"}}"#),
    (
        "network",
        "PUT",
        "/v2.0/routers/{id}/add_extraroutes",
        r#"{"router": {"routes": [{"destination": "10.9.9.0/24", "nexthop": "10.0.0.9"}]}}"#,
    ),
    (
        "network",
        "PUT",
        "/v2.0/routers/{id}/remove_extraroutes",
        r#"{"router": {"routes": [{"destination": "10.9.9.0/24", "nexthop": "10.0.0.9"}]}}"#,
    ),
    ("network", "POST", "/v2.0/floatingips", r#"{"floatingip": {"floating_network_id": "ID"}}"#),
    ("network", "PUT", "/v2.0/floatingips/{id}", r#"{"floatingip": {"description": "x"}}"#),
    ("network", "POST", "/v2.0/security-groups", r#"{"security_group": {"name": "x"}}"#),
    ("network", "PUT", "/v2.0/security-groups/{id}", r#"{"security_group": {"name": "x"}}"#),
    ("network", "POST", "/v2.0/security-group-rules", r#"{"security_group_rule": {"security_group_id": "ID", "direction": "ingress"}}"#),
    ("network", "POST", "/v2.0/qos/policies", r#"{"policy": {"name": "x"}}"#),
    ("network", "PUT", "/v2.0/qos/policies/{id}", r#"{"policy": {"name": "x"}}"#),
    ("network", "POST", "/v2.0/qos/policies/{id}/bandwidth_limit_rules", r#"{"bandwidth_limit_rule": {"max_kbps": 1}}"#),
    ("network", "PUT", "/v2.0/qos/policies/{id}/bandwidth_limit_rules/{rule_id}", r#"{"bandwidth_limit_rule": {"max_kbps": 1}}"#),
    ("network", "PUT", "/v2.0/qos/alias_bandwidth_limit_rules/{rule_id}", r#"{"alias_bandwidth_limit_rule": {"max_kbps": 1}}"#),
    ("network", "POST", "/v2.0/qos/policies/{id}/minimum_bandwidth_rules", r#"{"minimum_bandwidth_rule": {"min_kbps": 1}}"#),
    ("network", "PUT", "/v2.0/qos/policies/{id}/minimum_bandwidth_rules/{rule_id}", r#"{"minimum_bandwidth_rule": {"min_kbps": 1}}"#),
    ("network", "PUT", "/v2.0/qos/alias_minimum_bandwidth_rules/{rule_id}", r#"{"alias_minimum_bandwidth_rule": {"min_kbps": 1}}"#),
    ("network", "POST", "/v2.0/qos/policies/{id}/dscp_marking_rules", r#"{"dscp_marking_rule": {"dscp_mark": 8}}"#),
    ("network", "PUT", "/v2.0/qos/policies/{id}/dscp_marking_rules/{rule_id}", r#"{"dscp_marking_rule": {"dscp_mark": 8}}"#),
    ("network", "PUT", "/v2.0/qos/alias_dscp_marking_rules/{rule_id}", r#"{"alias_dscp_marking_rule": {"dscp_mark": 8}}"#),
    ("network", "POST", "/v2.0/qos/policies/{id}/minimum_packet_rate_rules", r#"{"minimum_packet_rate_rule": {"min_kpps": 1}}"#),
    ("network", "PUT", "/v2.0/qos/policies/{id}/minimum_packet_rate_rules/{rule_id}", r#"{"minimum_packet_rate_rule": {"min_kpps": 1}}"#),
    ("network", "PUT", "/v2.0/qos/alias_minimum_packet_rate_rules/{rule_id}", r#"{"alias_minimum_packet_rate_rule": {"min_kpps": 1}}"#),
    ("network", "POST", "/v2.0/qos/policies/{id}/packet_rate_limit_rules", r#"{"packet_rate_limit_rule": {"max_kpps": 1}}"#),
    ("network", "PUT", "/v2.0/qos/policies/{id}/packet_rate_limit_rules/{rule_id}", r#"{"packet_rate_limit_rule": {"max_kpps": 1}}"#),
    ("network", "PUT", "/v2.0/agents/{id}", r#"{"agent": {"description": "x"}}"#),
    ("placement", "PUT", "/resource_providers/{uuid}", r#"{"name": "x"}"#),
    ("placement", "POST", "/resource_providers/{uuid}/inventories", r#"{"resource_class": "VCPU", "total": 1}"#),
    ("placement", "PUT", "/resource_providers/{uuid}/inventories", r#"{"resource_provider_generation": 0, "inventories": {}}"#),
    ("placement", "PUT", "/resource_providers/{uuid}/inventories/{class}", r#"{"resource_provider_generation": 0, "total": 1}"#),
];

/// Answered to everybody who has a token: what is the caller's own, and what is no secret. `*` ends a beginning.
const OPEN: &[(&str, &str, &str)] = &[
    // A caller's own things; nothing is his in these lists.
    ("identity", "GET", "/v3/credentials"),
    ("identity", "GET", "/v3/limits"),
    ("identity", "GET", "/v3/OS-FEDERATION/projects"),
    ("identity", "GET", "/v3/OS-FEDERATION/domains"),
    ("network", "GET", "/v2.0/networks"),
    ("network", "GET", "/v2.0/subnets"),
    ("network", "GET", "/v2.0/ports"),
    ("network", "GET", "/v2.0/routers"),
    ("network", "GET", "/v2.0/floatingips"),
    ("network", "GET", "/v2.0/security-groups"),
    ("network", "GET", "/v2.0/security-group-rules"),
    ("network", "GET", "/v2.0/qos/policies"),
    ("network", "GET", "/v2.0/quotas/tenant"),
    ("network", "GET", "/v2.0/quotas/project"),
    ("network", "GET", "/v2.0/agents"),
    ("network", "GET", "/v2.0/network-ip-availabilities"),
    ("compute", "GET", "/os-keypairs"),
    ("compute", "POST", "/os-keypairs"),
    ("block-storage", "GET", "/attachments"),
    ("block-storage", "GET", "/attachments/detail"),
    // What the cloud offers is no secret.
    ("identity", "GET", "/v3/regions"),
    ("identity", "GET", "/v3/registered_limits"),
    ("identity", "GET", "/v3/limits/model"),
    ("network", "GET", "/v2.0/extensions"),
    ("network", "GET", "/v2.0/service-providers"),
    ("compute", "GET", "/flavors"),
    ("compute", "GET", "/flavors/detail"),
    ("compute", "GET", "/limits"),
    ("compute", "GET", "/os-quota-sets/{project}/defaults"),
    ("compute", "GET", "/os-availability-zone"),
    ("compute", "GET", "/extensions"),
    ("compute", "GET", "/os-floating-ip-pools"),
    ("block-storage", "GET", "/limits"),
    ("block-storage", "GET", "/extensions"),
    ("block-storage", "GET", "/group_types"),
    ("block-storage", "GET", "/os-availability-zone"),
    ("image", "GET", "/v2/schemas/*"),
    ("image", "GET", "/v2/info/import"),
    ("image", "GET", "/v2/info/stores"),
    ("image", "GET", "/v2/info/usage"),
];

/// Routes where no id is unknown: what is asked about need not exist (quotas of any project), or an id names what is made.
/// Ids of another form than ours are here too: they are refused as malformed.
const ANY_ID: &[(&str, &str, &str)] = &[
    // Nobody deletes a task, whichever.
    ("image", "DELETE", "/v2/tasks/{task_id}"),
    // Quotas are of any project, whether identity knows it or not.
    ("network", "GET", "/v2.0/quotas/{project}*"),
    ("network", "PUT", "/v2.0/quotas/{project}"),
    ("compute", "GET", "/os-quota-sets/{project}*"),
    ("compute", "PUT", "/os-quota-sets/{project}"),
    ("compute", "DELETE", "/os-quota-sets/{project}"),
    ("compute", "GET", "/os-quota-class-sets/{class}"),
    ("compute", "PUT", "/os-quota-class-sets/{class}"),
    ("compute", "GET", "/os-simple-tenant-usage/{project}"),
    ("block-storage", "GET", "/os-quota-sets/{id}*"),
    ("block-storage", "PUT", "/os-quota-sets/{id}"),
    ("block-storage", "DELETE", "/os-quota-sets/{id}"),
    ("block-storage", "GET", "/os-quota-class-sets/{id}"),
    ("block-storage", "PUT", "/os-quota-class-sets/{id}"),
    // Only a user makes and sees what is the user's own.
    ("identity", "POST", "/v3/users/{user_id}/application_credentials"),
    ("identity", "GET", "/v3/users/{user_id}/access_rules*"),
    ("identity", "DELETE", "/v3/users/{user_id}/access_rules/{access_rule_id}"),
    // 403 for groups that a configuration cannot have, as upstream; and ids that name what is made.
    ("identity", "GET", "/v3/domains/{domain_id}/config/{group}*"),
    ("identity", "PATCH", "/v3/domains/{domain_id}/config/{group}*"),
    ("identity", "DELETE", "/v3/domains/{domain_id}/config/{group}*"),
    ("identity", "GET", "/v3/domains/config/{group}*"),
    ("identity", "PUT", "/v3/OS-FEDERATION/mappings/{mapping_id}"),
    ("identity", "PUT", "/v3/OS-FEDERATION/service_providers/{service_provider_id}"),
    // 400 for an unknown mapping, as upstream.
    ("identity", "PUT", "/v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}"),
    ("identity", "PATCH", "/v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}"),
    // Who holds nothing holds an empty list.
    ("identity", "GET", "/v3/users/{user_id}/application_credentials"),
    ("identity", "GET", "/v3/users/{user_id}/OS-OAUTH1/access_tokens"),
    ("identity", "GET", "/v3/OS-FEDERATION/identity_providers/{idp_id}/protocols"),
    ("placement", "GET", "/allocations/{consumer}"),
    ("placement", "PUT", "/allocations/{consumer}"),
    // A time, and 400 where upstream says so for an unknown id.
    ("compute", "GET", "/os-instance_usage_audit_log/{before}"),
    // In the oldest versions of these the last part names an action, and a kind of console that is gone.
    ("compute", "PUT", "/os-services/{id}"),
    ("compute", "GET", "/os-console-auth-tokens/{token}"),
    ("fault", "GET", "/event_suppression/{id}"),
    ("fault", "PATCH", "/event_suppression/{id}"),
];

/// The route's path without the version and the caller's project, which is optional in some services.
fn plain(service: &str, path: &str) -> String {
    match service {
        "compute" => {
            let rest = path.strip_prefix("/v2.1").or_else(|| path.strip_prefix("/v2")).unwrap_or(path);
            rest.replacen("/{project_id}", "", 1)
        }
        "block-storage" => path.replacen("/v3", "", 1).replacen("/{project_id}", "", 1),
        "fault" => path.replacen("/v1", "", 1),
        _ => path.into(),
    }
}

fn listed(list: &[(&str, &str, &str)], service: &str, method: &str, path: &str) -> bool {
    let fits = |pattern: &str| pattern.strip_suffix('*').map_or(path == pattern, |start| path.starts_with(start));
    list.iter().any(|(s, m, p)| (*s, *m) == (service, method) && fits(p))
}

/// A route with a request to it.
struct Case {
    service: &'static str,
    method: &'static str,
    /// As the lists above name it.
    path: String,
    target: String,
}

fn cases(cloud: &Cloud, token: &Token) -> Vec<Case> {
    let routes = cloud.controller.app.routes().into_iter().filter(|r| !r.public);
    routes
        .map(|route| Case {
            path: plain(route.service, &route.path),
            target: format!(
                "{}{}{}",
                mount(route.service),
                filled(route.service, &route.path, &token.project_id),
                // the only ones that take what they work on as a query
                if route.path.ends_with("associate") { format!("?vol_type_id={UUID}") } else { String::new() }
            ),
            service: route.service,
            method: route.method,
        })
        .collect()
}

impl Case {
    fn name(&self) -> String {
        format!("{} {} {}", self.service, self.method, self.path)
    }

    fn body(&self) -> String {
        let own = BODIES.iter().find(|(s, m, p, _)| (*s, *m, *p) == (self.service, self.method, self.path.as_str()));
        match own {
            Some((_, _, _, body)) => body.replace("ID", UUID),
            None if self.path.ends_with("/tags") && self.service == "network" => json!({"tags": ["a"]}).to_string(),
            None => json!({}).to_string(),
        }
    }

    /// The answers without a microversion and in the newest.
    async fn send(&self, cloud: &Cloud, token: &Token, body: &str) -> Vec<Answer> {
        let kind = match (self.service, self.path.as_str(), self.method) {
            ("image", "/v2/images/{image_id}", "PATCH") => "application/openstack-images-v2.1-json-patch",
            ("image", path, "PUT") if path.ends_with("/file") || path.ends_with("/stage") => "application/octet-stream",
            _ => "application/json",
        };
        let mut answers = Vec::new();
        let newest = format!("{} latest", if self.service == "block-storage" { "volume" } else { self.service });
        for version in [None, Some(newest)] {
            let mut request = cloud.request(self.method, &self.target).token(token).text(kind, body.to_string());
            if let Some(version) = version {
                request = request.header("openstack-api-version", &version);
            }
            answers.push(request.send().await);
        }
        answers
    }
}

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|a| a.status).collect()
}

/// Every name in a list is needed: of some route, and of one that answers as no other may.
fn all_needed(list: &[(&str, &str, &str)], needed: &[(&'static str, &'static str, String)]) {
    for (service, method, pattern) in list {
        let one = [(*service, *method, *pattern)];
        assert!(needed.iter().any(|(s, m, p)| listed(&one, s, m, p)), "not needed in the list: {service} {method} {pattern}");
    }
}

/// Checks each route and tells of all that fail.
async fn check(
    cloud: &Cloud,
    token: &Token,
    exempt: &[(&str, &str, &str)],
    applies: impl Fn(&Case) -> bool,
    body: impl Fn(&Case) -> String,
    good: impl Fn(&Case, &[u16]) -> bool,
) {
    let (mut wrong, mut needed, mut count) = (Vec::new(), Vec::new(), 0);
    for case in cases(cloud, token).into_iter().filter(|case| applies(case)) {
        let answers = case.send(cloud, token, &body(&case)).await;
        let got = statuses(&answers);
        assert!(!got.contains(&401), "{}: the token is no longer good: {got:?}", case.name());
        count += 1;
        if good(&case, &got) {
            continue;
        }
        needed.push((case.service, case.method, case.path.clone()));
        if !listed(exempt, case.service, case.method, &case.path) {
            wrong.push(format!("{}: {got:?} {:.200}", case.name(), answers[1].text()));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} routes:\n{}", wrong.len(), wrong.join("\n"));
    all_needed(exempt, &needed);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_who_has_no_right() {
    let cloud = Cloud::start().await;
    let admin = cloud.admin().await;
    cloud.post(&admin, "/identity/v3/roles", json!({"role": {"name": "outsider"}})).await.expect(201);
    let outsider = cloud.tenant("outsider", "outsider").await;
    let refused = |_: &Case, got: &[u16]| got.iter().any(|s| matches!(s, 403 | 404 | 410)) && got.iter().all(|s| *s >= 400);
    check(&cloud, &outsider, OPEN, |case| !case.path.contains("/auth/"), Case::body, refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_tells_that_a_thing_does_not_exist() {
    let cloud = Cloud::start().await;
    let admin = cloud.admin().await;
    let missing = |_: &Case, got: &[u16]| got.iter().any(|s| matches!(s, 404 | 410)) && got.iter().all(|s| *s >= 400);
    check(&cloud, &admin, ANY_ID, |case| case.path.contains('{'), Case::body, missing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_with_a_body_refuses_a_malformed_one() {
    let cloud = Cloud::start().await;
    let admin = cloud.admin().await;
    // The body counts before or after what the path names is looked for; bytes are a good image, and 403 says that no body helps.
    let refused = |case: &Case, got: &[u16]| match case.path.contains('{') {
        true => got.iter().all(|s| matches!(s, 400 | 403 | 404 | 410)),
        false => got.iter().all(|s| matches!(s, 400 | 403 | 404 | 410)) && got.iter().any(|s| matches!(s, 400 | 403 | 410)),
    };
    let takes = |case: &Case| matches!(case.method, "POST" | "PUT" | "PATCH");
    check(&cloud, &admin, &[], takes, |_| "{".into(), refused).await;
    let nothing: Value = cloud.get(&admin, "/network/v2.0/networks").await.expect(200);
    assert_eq!(nothing["networks"], json!([]), "something was made of nothing");
}
