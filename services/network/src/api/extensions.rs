//! What this service can beyond the core of the API, under the aliases clients ask for.

use base::Result;
use http_api::{Request, Response, json};
use serde_json::{Value, json};

use crate::{Network, fault};

struct Extension {
    alias: &'static str,
    name: &'static str,
    description: &'static str,
    updated: &'static str,
}

const fn extension(alias: &'static str, name: &'static str, description: &'static str, updated: &'static str) -> Extension {
    Extension { alias, name, description, updated }
}

static EXTENSIONS: &[Extension] = &[
    extension("agent", "agent", "The hosts and how they are.", "2013-02-03T10:00:00-00:00"),
    extension("allowed-address-pairs", "Allowed Address Pairs", "Further addresses a port may send from.", "2012-05-01T10:00:00-00:00"),
    extension("availability_zone", "Availability Zone", "Zones of networks and routers.", "2015-01-01T10:00:00-00:00"),
    extension("availability_zone_filter", "Availability Zone Filter Extension", "Filters of zones.", "2018-06-22T10:00:00-00:00"),
    extension("binding", "Port Binding", "Where a port is and how it is plugged.", "2014-02-03T10:00:00-00:00"),
    extension("dns-integration", "DNS Integration", "Names of ports and floating addresses.", "2015-08-15T18:00:00-00:00"),
    extension("empty-string-filtering", "Empty String Filtering Extension", "Filters by an empty text.", "2018-05-01T10:00:00-00:00"),
    extension(
        "ext-gw-mode",
        "Neutron L3 Configurable external gateway mode",
        "Source translation can be turned off.",
        "2013-03-28T10:00:00-00:00",
    ),
    extension("external-net", "Neutron external network", "Networks that lead outside.", "2013-01-14T10:00:00-00:00"),
    extension("extra_dhcp_opt", "Neutron Extra DHCP options", "Further DHCP options of a port.", "2013-03-17T12:00:00-00:00"),
    extension("extraroute", "Neutron Extra Route", "Static routes of a router.", "2013-02-01T10:00:00-00:00"),
    extension("extraroute-atomic", "Atomically add/remove extra routes", "Static routes one by one.", "2019-07-10T00:00:00+00:00"),
    extension("filter-validation", "Filter parameters validation", "Unknown filters are refused.", "2018-03-21T10:00:00-00:00"),
    extension(
        "fip-port-details",
        "Floating IP Port Details Extension",
        "The port a floating address leads to.",
        "2018-04-09T10:00:00-00:00",
    ),
    extension(
        "ip-substring-filtering",
        "IP address substring filtering",
        "Filters ports by part of an address.",
        "2017-11-28T09:00:00-00:00",
    ),
    extension("net-mtu", "Network MTU", "The MTU of a network.", "2015-03-25T10:00:00-00:00"),
    extension("net-mtu-writable", "Network MTU (writable)", "The MTU of a network can be set.", "2017-07-12T00:00:00-00:00"),
    extension("network-ip-availability", "Network IP Availability", "How many addresses are in use.", "2015-09-24T00:00:00-00:00"),
    extension("network_availability_zone", "Network Availability Zone", "Zones of networks.", "2015-01-01T10:00:00-00:00"),
    extension("pagination", "Pagination support", "Lists in pages.", "2016-06-12T00:00:00-00:00"),
    extension("port-resource-request", "Port Resource Request", "What a port asks of its host.", "2018-05-08T10:00:00-00:00"),
    extension(
        "port-resource-request-groups",
        "Port Resource Request Groups",
        "What a port asks of its host, in groups.",
        "2021-08-02T10:00:00-00:00",
    ),
    extension("port-security", "Port Security", "Filtering of a port can be turned off.", "2012-07-23T10:00:00-00:00"),
    extension("project-id", "project_id field enabled", "`project_id` beside `tenant_id`.", "2016-09-09T09:09:09-09:09"),
    extension("provider", "Provider Network", "How a network is made.", "2012-09-07T10:00:00-00:00"),
    extension("qos", "Quality of Service", "Policies for the traffic of ports.", "2015-06-08T10:00:00-00:00"),
    extension(
        "qos-bw-limit-direction",
        "Direction for QoS bandwidth limit rule",
        "Limits in either direction.",
        "2017-04-10T10:00:00-00:00",
    ),
    extension(
        "qos-bw-minimum-ingress",
        "Ingress direction for QoS minimum bandwidth rule",
        "Promises in either direction.",
        "2018-07-09T10:00:00-00:00",
    ),
    extension("qos-default", "QoS default policy", "The policy of a project's new networks.", "2017-041-06T10:00:00-00:00"),
    extension("qos-port-network-policy", "QoS port network policy ID", "The policy of a port's network.", "2019-11-01T10:00:00-00:00"),
    extension("qos-pps", "QoS Rule Type Packet per Second Extension", "Limits of packets.", "2021-05-12T10:00:00-00:00"),
    extension("qos-pps-minimum", "QoS minimum packet rate rule", "Promises of packets.", "2021-07-14T10:00:00-00:00"),
    extension(
        "qos-pps-minimum-rule-alias",
        "QoS minimum packet rate rule alias",
        "Promises of packets by their ids alone.",
        "2021-10-22T10:00:00-00:00",
    ),
    extension("qos-rule-type-details", "Details of QoS rule types", "What a type of rules takes.", "2017-06-22T10:00:00-00:00"),
    extension(
        "qos-rule-type-filter",
        "Allow to filter the list of QoS rule types",
        "All types, or those that hold everywhere.",
        "2022-02-02T10:00:00-00:00",
    ),
    extension("qos-rules-alias", "Quality of Service rules alias API", "Rules by their ids alone.", "2018-10-07T10:00:00-00:00"),
    extension("quotas", "Quota management support", "Limits of projects.", "2012-07-29T10:00:00-00:00"),
    extension("quota_details", "Quota details management support", "Limits and what is used of them.", "2017-02-10T10:00:00-00:00"),
    extension("revision-if-match", "If-Match constraints based on revision_number", "Changes on condition.", "2016-12-11T00:00:00-00:00"),
    extension("router", "Neutron L3 Router", "Routers and floating addresses.", "2012-07-20T10:00:00-00:00"),
    extension("router_availability_zone", "Router Availability Zone", "Zones of routers.", "2015-01-01T10:00:00-00:00"),
    extension("security-group", "security-group", "Security groups.", "2012-10-05T10:00:00-00:00"),
    extension(
        "security-groups-normalized-cidr",
        "Normalized CIDR field for security group rules",
        "The network a rule means.",
        "2019-05-01T10:00:00-00:00",
    ),
    extension(
        "security-groups-rules-belongs-to-default-sg",
        "Security group rule belongs to the project's default security group",
        "Tells rules of default groups.",
        "2022-12-20T10:00:00-00:00",
    ),
    extension("service-type", "Neutron Service Type Management", "Drivers to choose from.", "2013-01-20T00:00:00-00:00"),
    extension("sorting", "Sorting support", "Lists in any order.", "2016-06-12T00:00:00-00:00"),
    extension("standard-attr-description", "standard-attr-description", "Descriptions of all resources.", "2016-02-10T10:00:00-00:00"),
    extension("standard-attr-revisions", "Resource revision numbers", "Revisions of all resources.", "2016-04-11T10:00:00-00:00"),
    extension(
        "standard-attr-tag",
        "Tag support for resources with standard attribute: network, subnet, port, router, floatingip, security_group, policy",
        "Tags.",
        "2017-01-01T00:00:00-00:00",
    ),
    extension("standard-attr-timestamp", "Resource timestamps", "When a resource was made and changed.", "2016-09-12T10:00:00-00:00"),
    extension("stateful-security-group", "Stateful security group", "Groups that do not follow connections.", "2019-11-26T09:00:00-00:00"),
    extension(
        "subnet-external-network",
        "Subnet belongs to an external network",
        "Tells subnets of external networks.",
        "2024-02-05T18:00:00-00:00",
    ),
    extension("subnet-service-types", "Subnet service types", "Subnets for some kinds of ports.", "2016-03-15T18:00:00-00:00"),
    extension("tag-creation", "Tag creation extension", "Several tags at once.", "2024-06-04T00:00:00-00:00"),
    extension("tag-ports-during-bulk-creation", "Tag Ports During Bulk Creation", "Ports are made with tags.", "2019-12-29T19:00:00-00:00"),
];

fn view(e: &Extension) -> Value {
    json!({"alias": e.alias, "name": e.name, "description": e.description, "updated": e.updated, "links": []})
}

pub async fn index(_net: Network, _req: Request) -> Result<Response> {
    json(200, &json!({"extensions": EXTENSIONS.iter().map(view).collect::<Vec<_>>()}))
}

pub async fn show(_net: Network, req: Request) -> Result<Response> {
    let alias = req.param("alias");
    match EXTENSIONS.iter().find(|e| e.alias == alias) {
        Some(found) => json(200, &json!({"extension": view(found)})),
        None => Err(fault::missing("ExtensionNotFound", format!("Extension with alias {alias} does not exist"))),
    }
}
