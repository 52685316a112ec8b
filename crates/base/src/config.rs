//! Configuration: one TOML file and `STURNUS_*` environment variables, every key described in [`KEYS`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// One documented key. `env` is always `STURNUS_` and the key in upper case with `_` for `.`.
pub struct Key {
    pub name: &'static str,
    pub default: &'static str,
    pub help: &'static str,
}

/// Every key there is; `sturnus config --document` prints this table.
pub const KEYS: &[Key] = &[
    Key { name: "home", default: "/var/lib/sturnus", help: "Directory of all state. Environment: STURNUS_HOME." },
    Key { name: "listen", default: "127.0.0.1:5000", help: "Address and port of the API. TLS is used on every address but loopback." },
    Key { name: "region", default: "RegionOne", help: "Region id in the service catalogue." },
    Key { name: "public_url", default: "", help: "Base URL in the service catalogue; empty: derived from `listen`." },
    Key { name: "tls.certificate", default: "", help: "PEM file of the API's certificate chain; empty: issued by the built-in authority." },
    Key { name: "tls.key", default: "", help: "PEM file of the certificate's private key." },
    Key {
        name: "tls.client_ca",
        default: "",
        help: "PEM file of the authorities whose certificates clients of the API may show; empty: none is asked for.",
    },
    Key { name: "store", default: "sqlite", help: "`sqlite`, or the URL of a PostgreSQL database: postgresql://USER:PASSWORD@HOST/NAME." },
    Key {
        name: "role",
        default: "all-in-one",
        help: "What `sturnus up` runs here: `all-in-one`, `controller` (no guests here) or `host` (set by `sturnus join`).",
    },
    Key {
        name: "hosts.listen",
        default: "",
        help: "Address and port where hosts of other machines open their sessions; empty: no other machine can join.",
    },
    Key {
        name: "heartbeat.port",
        default: "2106",
        help: "UDP port on which hosts that joined answer the controller's pulses, on every machine of the site.",
    },
    Key {
        name: "heartbeat.cluster_address",
        default: "",
        help: "This machine's address on the network among the hosts, where the controller asks them too; empty: on the management network only.",
    },
    Key {
        name: "heartbeat.mnfa_threshold",
        default: "0",
        help: "So many hosts that are lost at once are taken for a fault of the network, and waited for; 0: more than half of the site.",
    },
    Key { name: "heartbeat.mnfa_timeout", default: "0", help: "For how many seconds they are; 0: as long as it lasts." },
    Key { name: "host.cluster_address", default: "", help: "This host's address on the network among the hosts, if it has one." },
    Key { name: "controller.url", default: "", help: "Where a host that joined opens its session: https://ADDRESS:PORT." },
    Key {
        name: "host.address",
        default: "",
        help: "Address by which other hosts reach this one; empty: that of `listen`, or the one that leads to the controller.",
    },
    Key { name: "host.name", default: "", help: "Name of this machine in the cloud; empty: the system's host name." },
    Key {
        name: "host.accelerator",
        default: "auto",
        help: "`auto` (KVM when a probe guest really runs under it, else TCG), `kvm` or `tcg`.",
    },
    Key { name: "host.user", default: "sturnus-guest", help: "Unprivileged system user that runs QEMU; made when missing." },
    Key {
        name: "host.shared_storage",
        default: "",
        help: "Directory that several hosts mount (NFS, CephFS, GlusterFS), for volumes that are not bound to a host; it has a file \
               `sturnus-storage` with a UUID. Empty: none.",
    },
    Key { name: "host.shared_storage_name", default: "shared", help: "What types of volumes call it (`volume_backend_name`)." },
    Key {
        name: "host.watchdog",
        default: "",
        help: "The machine's hardware watchdog, such as /dev/watchdog, which resets it when nobody is left who would end guests that may run elsewhere; \
               only for hosts that joined. Empty: none.",
    },
    Key { name: "host.watchdog_seconds", default: "10", help: "After how long it does, when it is not wound up." },
    Key {
        name: "host.guest_ask_seconds",
        default: "5",
        help: "How often the process of each guest is asked whether it is well, and how long until an answer counts as missed.",
    },
    Key {
        name: "host.guest_misses",
        default: "4",
        help: "So many answers in a row that a guest's process has missed until it counts as hung and is ended; 0: it is never asked.",
    },
    Key {
        name: "host.reboot_command",
        default: "auto",
        help: "What a host that joined runs when it is told to reboot its machine; `auto`: systemctl reboot where systemd runs, empty: nothing.",
    },
    Key {
        name: "host.reset_command",
        default: "auto",
        help: "What resets this machine when it was told to reboot and is still up after `host.reset_seconds`; `auto`: its kernel, where \
               `host.reboot_command` is `auto`; empty: nothing.",
    },
    Key { name: "host.reset_seconds", default: "120", help: "How long a reboot that was begun may take to end what runs." },
    Key {
        name: "host.tests",
        default: "/etc/goenabled.d",
        help: "Directories, with commas, of executables that must all succeed before this machine's host is in service.",
    },
    Key {
        name: "host.services",
        default: "/etc/services.d",
        help: "Directories, with commas, of executables that are run with `start` after the tests, before this machine's host is in service.",
    },
    Key { name: "maintenance.test_seconds", default: "600", help: "How long a host's own tests may take." },
    Key {
        name: "maintenance.in_service_seconds",
        default: "10",
        help: "How often the tests of a host in service are run again; 0: never.",
    },
    Key {
        name: "maintenance.out_of_service_seconds",
        default: "300",
        help: "How often the tests of a host that is out of service, and not tried again by itself, are run; 0: never.",
    },
    Key { name: "maintenance.services_seconds", default: "300", help: "How long starting a host's own services may take." },
    Key {
        name: "maintenance.soak_seconds",
        default: "60",
        help: "Within which time a host must have answered ten pulses in a row to be put into service.",
    },
    Key {
        name: "maintenance.retries",
        default: "2",
        help: "How often a host that could not be put into service is tried again, for each cause, until it is locked and unlocked.",
    },
    Key { name: "maintenance.retry_seconds", default: "30", help: "The pause before that." },
    Key { name: "maintenance.heartbeat_retry_seconds", default: "600", help: "The same for a host that does not answer its pulses." },
    Key {
        name: "maintenance.steady_seconds",
        default: "600",
        help: "For how long a host's heartbeat must be well for the next time it is lost not to count as once more in a row.",
    },
    Key {
        name: "maintenance.self_reboots",
        default: "3",
        help: "How often in a row the only host of a site reboots itself when it cannot be put into service, or a critical process does not come \
               back; with `host.reboot_command` only.",
    },
    Key {
        name: "maintenance.outage_seconds",
        default: "1200",
        help: "When the controller's machine has been up for less, the whole site may have lost its power, and its hosts are waited for until then.",
    },
    Key {
        name: "maintenance.outage_small_seconds",
        default: "60",
        help: "The same for a site of fewer than four hosts beside the controller's.",
    },
    Key {
        name: "maintenance.action_seconds",
        default: "120",
        help: "How long a host's management controller (BMC) may take to do what it is told.",
    },
    Key {
        name: "maintenance.cycle_seconds",
        default: "300",
        help: "How long a machine that a sensor has switched off cools, and is watched when it is on again.",
    },
    Key {
        name: "maintenance.force_seconds",
        default: "120",
        help: "How long a lock by force may take until the host is certainly off; a BMC is told three times within it.",
    },
    Key { name: "maintenance.boot_seconds", default: "720", help: "How long a host may take to boot before its action counts as failed." },
    Key {
        name: "bmc.ca",
        default: "",
        help: "PEM file of the authorities that certificates of BMCs may have (Redfish); empty: any certificate is taken.",
    },
    Key {
        name: "monitor.processes",
        default: "/etc/pmon.d",
        help: "Directory of files, each of which names a process that this machine's host watches and restarts.",
    },
    Key {
        name: "monitor.watchdog",
        default: "reboot",
        help: "What is done when a process with `quorum = 1` fails twice in a row on a host that joined and is not locked: `reboot`, or `log`.",
    },
    Key { name: "monitor.resources", default: "true", help: "Watch this machine's processor, memory and filesystems, and tell of levels." },
    Key {
        name: "monitor.filesystems",
        default: "/,/scratch,/var/log,/run,/run/lock",
        help: "Directories, with commas, in which a file is written and read now and then, besides the home; those that are not there are passed over.",
    },
    Key {
        name: "monitor.links",
        default: "127.0.0.1:2122",
        help: "Address and port where the state of this machine's links is told (GET /mtce/lmon); empty: nowhere.",
    },
    Key { name: "host.simulated", default: "false", help: "Run a simulated hypervisor and network instead of real ones (tests only)." },
    Key { name: "host.simulated_hosts", default: "1", help: "How many hosts are simulated, when they are." },
    Key { name: "host.cpu_allocation_ratio", default: "16.0", help: "Virtual processors offered for each real one." },
    Key {
        name: "host.cpu_dedicated_set",
        default: "",
        help: "Processors that this machine's guests get as their own, one for each virtual one (`hw:cpu_policy=dedicated`), such as `2-17,^8`; empty: none.",
    },
    Key {
        name: "host.cpu_shared_set",
        default: "",
        help: "Processors for all other guests, and for what emulates guests with processors of their own; empty: all, or none where `host.cpu_dedicated_set` is set.",
    },
    Key { name: "host.ram_allocation_ratio", default: "1.5", help: "Memory offered for each real byte." },
    Key { name: "host.reserved_memory_mib", default: "512", help: "Memory kept for the machine itself." },
    Key { name: "host.external_bridge", default: "br-ex", help: "Bridge of the provider network `public`; made when missing." },
    Key {
        name: "host.resource_provider_bandwidths",
        default: "",
        help: "Bandwidth that this machine may promise to ports (QoS rules of minimum bandwidth), as comma-separated NETWORK:EGRESS:INGRESS in kilobits per second: `public:10000000:10000000,rp_tunnelled:5000000:5000000`, where `rp_tunnelled` is what all tunnels share. An amount left out is not promised; empty: none.",
    },
    Key {
        name: "host.resource_provider_packet_processing",
        default: "",
        help: "Packets that this machine may promise to ports (QoS rules of minimum packet rate), in thousands per second: `:1000` whatever their direction, or `:600:400` for those that guests send and get. Before the first colon this machine's name may stand. Empty: none.",
    },
    Key { name: "host.dns", default: "", help: "Comma-separated resolvers offered to guests whose subnet names none." },
    Key {
        name: "network.mtu",
        default: "1500",
        help: "MTU of the underlying network; overlay networks get 50 bytes less, 110 with `network.encryption`.",
    },
    Key {
        name: "network.encryption",
        default: "false",
        help: "Encrypt what guests send to guests of other hosts (WireGuard). Set it where the controller runs; it holds from its next start on.",
    },
    Key {
        name: "network.vlan_ranges",
        default: "",
        help: "VLANs of `public` that are given to VLAN networks for which no administrator chooses one, as comma-separated NETWORK:FIRST:LAST, `public` alone for all; empty: each is chosen.",
    },
    Key { name: "network.encryption_port", default: "51820", help: "UDP port of every host for what is encrypted." },
    Key { name: "recovery.attempts", default: "5", help: "Restarts of a dying guest within the window before it is held failed." },
    Key { name: "recovery.window_seconds", default: "300", help: "The window in which attempts are counted." },
    Key {
        name: "compute.guest_wait_seconds",
        default: "45",
        help: "How long a request waits for the guest that votes on it; then it is answered 202, and goes on.",
    },
    Key { name: "compute.guest_waiting", default: "128", help: "Requests that may wait for guests at once; the oldest is answered 503." },
    Key {
        name: "compute.guest_silent_seconds",
        default: "600",
        help: "How long a guest that should have a heartbeat may run without one before there is an alarm.",
    },
    Key {
        name: "recovery.hold_seconds",
        default: "30",
        help: "How long a guest that its host holds failed is left alone before the controller starts it anew; twice as long after each try.",
    },
    Key {
        name: "recovery.rebuild",
        default: "false",
        help: "Whether a guest that failed again after that is made anew from its image: what it wrote to its disk is lost then.",
    },
    Key { name: "console.token_seconds", default: "600", help: "How long the URL of a console opens it." },
    Key { name: "compute.shelved_offload", default: "1", help: "1: a shelved server gives up its place at once; 0: when it is told to." },
    Key { name: "compute.resize_confirm_seconds", default: "0", help: "Resizes are confirmed by themselves after this time; 0: never." },
    Key {
        name: "compute.verify_glance_signatures",
        default: "false",
        help: "Whether servers are started from signed images only, whose signature is that of their content. Images for which trusted certificates are named are verified anyway.",
    },
    Key {
        name: "compute.enable_certificate_validation",
        default: "false",
        help: "With `compute.verify_glance_signatures`: whether the signer's certificate must be issued by trusted ones, which a server's user names or the next key does.",
    },
    Key {
        name: "compute.default_trusted_certificate_ids",
        default: "",
        help: "With `compute.enable_certificate_validation`: ids in the key manager of the certificates that are trusted where a server's user names none; separated by commas.",
    },
    Key { name: "token.lifetime_seconds", default: "3600", help: "How long a token is valid." },
    Key {
        name: "oauth2.oauth2_authn_methods",
        default: "tls_client_auth,client_secret_basic",
        help: "How clients of OAuth 2.0 prove who they are: `tls_client_auth` by a certificate, `client_secret_basic` by a secret.",
    },
    Key {
        name: "oauth2.oauth2_cert_dn_mapping_id",
        default: "oauth2_mapping",
        help: "The mapping that says which user a client's certificate stands for.",
    },
    Key {
        name: "external.remote_user",
        default: "",
        help: "What tells the user's name for the method `external`: an attribute of the client's certificate (SSL_CLIENT_S_DN_CN, say), or a header that `api.proxies` set; empty: nothing.",
    },
    Key {
        name: "external.remote_domain",
        default: "",
        help: "What tells the name of the user's domain, likewise; empty, or when it is not there: the default domain.",
    },
    Key {
        name: "tokenless_auth.trusted_issuer",
        default: "",
        help: "Issuers of certificates that stand for a token at the identity API: names as in RFC 4514 (CN=ca,O=acme), separated by semicolons; empty: none do.",
    },
    Key { name: "tokenless_auth.protocol", default: "x509", help: "The protocol of the identity provider that such an issuer is." },
    Key {
        name: "tokenless_auth.issuer_attribute",
        default: "SSL_CLIENT_I_DN",
        help: "The attribute of the certificate that names the issuer; its SHA-256 in hex digits is the identity provider's id.",
    },
    Key {
        name: "federation.settings",
        default: "",
        help: "TOML file with the OpenID and SAML providers of identity providers and the secrets shared with them; empty: federation.toml in the home.",
    },
    Key {
        name: "federation.default_authorization_ttl",
        default: "0",
        help: "For how many minutes a group membership that an identity provider told of holds after the token, if the provider has no number of its own.",
    },
    Key {
        name: "federation.url",
        default: "",
        help: "URL of the Identity API as identity providers know it, up to /v3; empty: /identity/v3 below the public URL.",
    },
    Key {
        name: "federation.trusted_dashboard",
        default: "",
        help: "URLs to which web single sign-on may send tokens, with commas between them: https://HOST/auth/websso. None: there is none.",
    },
    Key {
        name: "saml.idp_entity_id",
        default: "",
        help: "Name of this cloud as a SAML identity provider for other clouds (a URI); empty: it is none.",
    },
    Key { name: "saml.idp_sso_endpoint", default: "", help: "URL of single sign-on in the metadata of this identity provider." },
    Key { name: "saml.certfile", default: "", help: "PEM file of the certificate by which assertions are signed." },
    Key { name: "saml.keyfile", default: "", help: "PEM file of its private key: RSA, or P-256 in PKCS#8." },
    Key {
        name: "saml.assertion_expiration_time",
        default: "3600",
        help: "For how many seconds assertions hold; never longer than the token they are made of.",
    },
    Key {
        name: "saml.relay_state_prefix",
        default: "ss:mem:",
        help: "What the relay state of assertions for service providers that say nothing of it begins with.",
    },
    Key { name: "saml.idp_lang", default: "en", help: "Language of what the metadata says of the organization." },
    Key { name: "saml.idp_organization_name", default: "SAML Identity Provider", help: "Name of the organization in the metadata." },
    Key {
        name: "saml.idp_organization_display_name",
        default: "OpenStack SAML Identity Provider",
        help: "The same, as it is shown to people.",
    },
    Key { name: "saml.idp_organization_url", default: "https://example.com/", help: "Page of the organization in the metadata." },
    Key { name: "saml.idp_contact_company", default: "Example, Inc.", help: "Company of the contact in the metadata." },
    Key { name: "saml.idp_contact_name", default: "SAML Identity Provider Support", help: "Given name of the contact." },
    Key { name: "saml.idp_contact_surname", default: "Support", help: "Surname of the contact." },
    Key { name: "saml.idp_contact_email", default: "support@example.com", help: "Address of the contact." },
    Key { name: "saml.idp_contact_telephone", default: "+1 800 555 0100", help: "Telephone number of the contact." },
    Key {
        name: "saml.idp_contact_type",
        default: "other",
        help: "Kind of the contact: technical, support, administrative, billing or other.",
    },
    Key {
        name: "token.provider",
        default: "fernet",
        help: "`fernet`: tokens are sealed; `jws`: they are signed (ES256) with keys/jws/private/private.pem.",
    },
    Key {
        name: "token.methods",
        default: "external,password,token,oauth1,mapped,application_credential,totp,oauth2_credential,ec2credential,openid,saml2",
        help: "The methods of authentication that are allowed. Their order is part of what is in a token: new ones go to the end.",
    },
    Key {
        name: "token.key_directory",
        default: "",
        help: "Where the Fernet keys of tokens are; empty: keys/token in the home. A Keystone may share them.",
    },
    Key {
        name: "credential.key_repository",
        default: "",
        help: "Where the Fernet keys of stored secrets are, as keystone has them; empty: keys/credential in the home.",
    },
    Key {
        name: "keys.secret_file",
        default: "",
        help: "File with a secret that all controllers of a shared database have, by which their keys are sealed there; empty: the password in `store`.",
    },
    Key {
        name: "token.receipt_seconds",
        default: "300",
        help: "How long a user of whom several methods are demanded may take for the rest.",
    },
    Key {
        name: "totp.previous_windows",
        default: "1",
        help: "How many earlier codes of an authenticator are taken, of 30 seconds each; at most 10.",
    },
    Key {
        name: "token.key_rotation_seconds",
        default: "86400",
        help: "How often a new token key becomes primary; 0: never, somebody else rotates them.",
    },
    Key { name: "password.hash", default: "argon2id", help: "`argon2id` or `bcrypt` for new password hashes." },
    Key { name: "password.memory_kib", default: "19456", help: "Memory cost of argon2id." },
    Key { name: "password.passes", default: "2", help: "Time cost of argon2id; rounds (log2) of bcrypt when above 3." },
    Key {
        name: "endpoint_filter.return_all_endpoints_if_no_filter",
        default: "true",
        help: "Whether the catalogue of a project for which no endpoints were chosen shows all of them, or nothing.",
    },
    Key {
        name: "password.attempts_per_minute",
        default: "60",
        help: "So many wrong passwords for one user from one address in a minute, and there are no more answers for the rest of it; 0: any number.",
    },
    Key {
        name: "security_compliance.lockout_failure_attempts",
        default: "0",
        help: "After so many wrong passwords one after the other an account is locked; 0: never.",
    },
    Key {
        name: "security_compliance.lockout_duration",
        default: "1800",
        help: "For how many seconds it is; 0: until an administrator enables it.",
    },
    Key {
        name: "security_compliance.disable_user_account_days_inactive",
        default: "0",
        help: "Users who do not log in for so many days are disabled; 0: never.",
    },
    Key { name: "security_compliance.password_expires_days", default: "0", help: "For how many days a password is good; 0: for ever." },
    Key {
        name: "security_compliance.unique_last_password_count",
        default: "0",
        help: "A password that a user chooses must differ from so many of the last ones; 0: from none.",
    },
    Key {
        name: "security_compliance.minimum_password_age",
        default: "0",
        help: "Users may not change a password they chose for so many days.",
    },
    Key {
        name: "security_compliance.change_password_upon_first_use",
        default: "false",
        help: "Whether users must change a password that somebody else chose before it is good for anything.",
    },
    Key { name: "security_compliance.password_regex", default: "", help: "What new passwords must match; empty: anything." },
    Key {
        name: "security_compliance.password_regex_description",
        default: "",
        help: "What users are told of it, in place of the expression.",
    },
    Key {
        name: "unified_limit.enforcement_model",
        default: "flat",
        help: "`flat`, or `strict_two_level`: projects lie directly below their domain and none has a higher limit than the domain.",
    },
    Key { name: "api.max_limit", default: "1000", help: "Most items a list returns on one page." },
    Key { name: "api.max_body_bytes", default: "1048576", help: "Largest request body but uploads." },
    Key {
        name: "api.proxied",
        default: "false",
        help: "Whether `X-Forwarded-Proto`, `-Host` and `-For` of requests are believed: where a reverse proxy that sets them is the only way in.",
    },
    Key {
        name: "api.proxies",
        default: "",
        help: "Comma-separated addresses of these proxies, from which headers that say who the client is are believed; empty: from none.",
    },
    Key {
        name: "api.client_certificate_header",
        default: "",
        help: "Header in which they hand on the certificate that a client has shown and they have verified, as RFC 9440 says or as PEM; empty: none.",
    },
    Key {
        name: "placement.max_allocation_candidates",
        default: "100000",
        help: "Most candidates in one answer of placement, whatever its request says; 0: all there are.",
    },
    Key {
        name: "placement.randomize_allocation_candidates",
        default: "false",
        help: "Whether candidates come in another order each time, so that those who ask for a few do not all get the same.",
    },
    Key {
        name: "placement.allocation_candidates_generation_strategy",
        default: "depth-first",
        help: "`depth-first`: all candidates of a tree of providers before the next tree; `breadth-first`: one of each tree in turn.",
    },
    Key {
        name: "block_storage.max_over_subscription_ratio",
        default: "20.0",
        help: "GiB of volumes that are promised for each GiB of where they are: they are thin, and take what is written to them. At least 1.",
    },
    Key { name: "block_storage.reserved_percentage", default: "0", help: "Percent of where volumes are that is promised to none of them." },
    Key { name: "image.max_bytes", default: "1099511627776", help: "Largest image upload." },
    Key {
        name: "image.require_format_match",
        default: "true",
        help: "Whether the content of an image must be what its `disk_format` says. Dangerous content is refused in any case.",
    },
    Key {
        name: "image.stores",
        default: "",
        help: "Stores of images beside `local` ($STURNUS_HOME/images): `id=/directory`, `id=s3+https://host:port/bucket?region=name`, `id=rbd+/etc/ceph/ceph.conf?pool=name&user=name`, `id=cinder?project=name&type=name` or `id=http`, each with `:weight` or without, separated by commas. Who may use a bucket is in `keys/store-ID`: `access:secret`. `cinder` are volumes of block storage, of the project `service` unless another one is named. In `http` are images at addresses that their users name; `image.import_*` say which.",
    },
    Key {
        name: "image.cache_max_bytes",
        default: "10737418240",
        help: "What `POST /image/v2/cache/prune` leaves of images of other stores that are cached beside `local`.",
    },
    Key {
        name: "image.show_multiple_locations",
        default: "false",
        help: "Whether images show where their content is (`locations`), and patches may change the order, drop some, and add addresses where there is a store `http`.",
    },
    Key { name: "image.show_image_direct_url", default: "false", help: "Whether images show the address of their content (`direct_url`)." },
    Key { name: "image.default_store", default: "local", help: "The store of images for which nobody names another." },
    Key {
        name: "image.import_allowed_schemes",
        default: "http,https",
        help: "Schemes that images may be downloaded by; empty: all but the disallowed ones.",
    },
    Key { name: "image.import_disallowed_schemes", default: "", help: "Schemes that images may not be downloaded by." },
    Key {
        name: "image.import_allowed_hosts",
        default: "",
        help: "Hosts that images may be downloaded from, whatever their addresses; empty: all but the disallowed ones.",
    },
    Key { name: "image.import_disallowed_hosts", default: "", help: "Hosts that images may not be downloaded from." },
    Key {
        name: "image.import_allowed_ports",
        default: "80,443",
        help: "Ports that images may be downloaded from; empty: all but the disallowed ones.",
    },
    Key { name: "image.import_disallowed_ports", default: "", help: "Ports that images may not be downloaded from." },
    Key {
        name: "image.import_private_addresses",
        default: "false",
        help: "Whether images may be downloaded from addresses that are not public: loopback, link-local, private networks.",
    },
    Key {
        name: "image.import_plugins",
        default: "",
        help: "What is done to imported images, of `image_decompression` (gzip, ZIP), `image_conversion` and `inject_image_metadata`, separated by commas; in this order.",
    },
    Key { name: "image.conversion_format", default: "raw", help: "What `image_conversion` converts to: `raw`, `qcow2` or `vmdk`." },
    Key {
        name: "image.inject_properties",
        default: "",
        help: "Properties that `inject_image_metadata` gives to imported images: `name:value`, separated by commas.",
    },
    Key {
        name: "image.inject_ignored_roles",
        default: "admin",
        help: "Users with one of these roles import images without `image.inject_properties`; separated by commas.",
    },
    Key {
        name: "image.key_manager",
        default: "",
        help: "Address of the key manager (Barbican's API) that has the certificates of signed images; empty: the catalogue's public `key-manager` endpoint.",
    },
    Key {
        name: "image.key_manager_authorities",
        default: "",
        help: "File of PEM certificates of those who vouch for the key manager; empty: the machine's.",
    },
    Key { name: "fault.event_log_size", default: "4000", help: "Events the event log keeps; the oldest go." },
    Key {
        name: "fault.event_log_days",
        default: "0",
        help: "Days for which the event log keeps an event at most; 0: as long as it has room.",
    },
    Key {
        name: "fault.flap_count",
        default: "0",
        help: "How often an alarm may be cleared within `fault.flap_seconds`; one that is more often is held set. 0: no alarm ever is.",
    },
    Key { name: "fault.flap_seconds", default: "300", help: "The time in which the clears of an alarm are counted." },
    Key { name: "fault.flap_quiet", default: "300", help: "Seconds without a change after which an alarm is no longer held set." },
    Key {
        name: "fault.listen",
        default: "127.0.0.1:8001",
        help: "Address and port of the fault manager's C clients; empty: none. On loopback, programs of root and of the cloud's own user only.",
    },
    Key {
        name: "fault.peers",
        default: "",
        help: "Comma-separated networks whose machines may use `fault.listen`; needed on every address but loopback.",
    },
    Key {
        name: "fault.syslog",
        default: "",
        help: "Address and port of a syslog collector (RFC 5424 over UDP) for alarms and events; empty: none.",
    },
    Key { name: "fault.webhook_url", default: "", help: "Where alarms and events are POSTed as JSON; empty: nowhere." },
    Key {
        name: "fault.webhook_secret_file",
        default: "",
        help: "File with the key that signs these requests; empty: keys/webhook.secret in the home, made at need.",
    },
    Key {
        name: "fault.webhook_ca",
        default: "",
        help: "PEM file of the authorities that the receiver's certificate may have; empty: the system's.",
    },
    Key { name: "fault.snmp_listen", default: "", help: "Address and port of the SNMP agent; empty: none." },
    Key { name: "fault.snmp_community", default: "", help: "Community of SNMP v2c; empty: v3 only." },
    Key {
        name: "fault.snmp_users",
        default: "",
        help: "File with the users of SNMP v3, one a line: NAME none, or NAME md5|sha PASSWORD [aes|des PASSWORD]; empty: none.",
    },
    Key { name: "fault.snmp_traps", default: "", help: "Comma-separated ADDRESS:PORT of those who get SNMP traps." },
    Key { name: "fault.snmp_trap_user", default: "", help: "The user who sends traps by v3; empty: by v2c." },
    Key { name: "fault.system_name", default: "", help: "This system's name in SNMP and in the entities of its traps." },
    Key { name: "policy_file", default: "", help: "policy.yaml with overrides; empty: $STURNUS_HOME/policy.yaml if there is one." },
    Key { name: "log", default: "info", help: "Log filter, for example `info,host=debug`." },
];

const ROLES: [&str; 3] = ["all-in-one", "controller", "host"];

/// The values in force: file, then environment, over the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    values: BTreeMap<&'static str, String>,
}

impl Config {
    /// Defaults only, with `home` set: for tests.
    pub fn for_home(home: impl Into<PathBuf>) -> Self {
        let mut config = Config { values: KEYS.iter().map(|k| (k.name, k.default.to_string())).collect() };
        config.set("home", &home.into().to_string_lossy());
        config
    }

    /// Reads `file` (may be absent when `required` is false) and `environment`.
    pub fn load(file: &Path, required: bool, environment: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let mut config = Self::for_home("/var/lib/sturnus");
        match std::fs::read_to_string(file) {
            Ok(text) => {
                let table: toml::Table = text.parse().map_err(|e| Error::invalid(format!("{}: {e}", file.display())))?;
                config.take_table("", &table, file)?;
            }
            Err(e) if required || e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::invalid(format!("{}: {e}", file.display())));
            }
            Err(_) => {}
        }
        for (name, value) in environment {
            if let Some(key) = KEYS.iter().find(|k| env_name(k.name) == name) {
                config.values.insert(key.name, value);
            }
        }
        config.check()?;
        Ok(config)
    }

    fn take_table(&mut self, prefix: &str, table: &toml::Table, file: &Path) -> Result<()> {
        for (name, value) in table {
            let full = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            if let toml::Value::Table(inner) = value {
                self.take_table(&full, inner, file)?;
                continue;
            }
            let Some(key) = KEYS.iter().find(|k| k.name == full) else {
                return Err(Error::invalid(format!("{}: unknown key `{full}`; see `sturnus config --document`", file.display())));
            };
            let text = match value {
                toml::Value::String(s) => s.clone(),
                other => other.to_string(),
            };
            self.values.insert(key.name, text);
        }
        Ok(())
    }

    /// Every value that must parse is parsed once here, so that a bad one is told at start and not later.
    fn check(&self) -> Result<()> {
        for key in KEYS {
            let default = key.default;
            let value = self.text(key.name);
            let wrong = (default.parse::<u64>().is_ok() && value.parse::<u64>().is_err())
                || (default.contains('.') && default.parse::<f64>().is_ok() && value.parse::<f64>().is_err())
                || (matches!(default, "true" | "false") && value.parse::<bool>().is_err());
            if wrong {
                return Err(Error::invalid(format!("`{value}` is no value for `{}` (default {default})", key.name)));
            }
        }
        self.text("listen").parse::<SocketAddr>().map_err(|_| Error::invalid("`listen` must be ADDRESS:PORT"))?;
        let empty_or = |name: &str, fits: &dyn Fn(&str) -> bool, what: &str| match self.text(name) {
            "" => Ok(()),
            text if fits(text) => Ok(()),
            text => Err(Error::invalid(format!("`{text}` is no value for `{name}`: {what}"))),
        };
        empty_or("fault.listen", &|t| t.parse::<SocketAddr>().is_ok(), "it must be ADDRESS:PORT")?;
        empty_or("fault.syslog", &|t| t.parse::<SocketAddr>().is_ok(), "it must be ADDRESS:PORT")?;
        empty_or("hosts.listen", &|t| t.parse::<SocketAddr>().is_ok(), "it must be ADDRESS:PORT")?;
        empty_or("host.address", &|t| t.parse::<IpAddr>().is_ok(), "it must be an address")?;
        for key in ["host.cluster_address", "heartbeat.cluster_address"] {
            empty_or(key, &|t| t.parse::<IpAddr>().is_ok(), "it must be an address")?;
        }
        empty_or("host.shared_storage", &|t| t.starts_with('/'), "it must be an absolute path")?;
        let ratio = |t: &str| t.parse::<f64>().is_ok_and(|ratio| ratio.is_finite() && ratio >= 1.0);
        empty_or("block_storage.max_over_subscription_ratio", &ratio, "it must be a number, and at least 1")?;
        let percent = |t: &str| t.parse::<u64>().is_ok_and(|percent| percent <= 100);
        empty_or("block_storage.reserved_percentage", &percent, "it must be from 0 to 100")?;
        let fits = |t: &str| t != "local" && t.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        empty_or("host.shared_storage_name", &fits, "it must be of letters, digits, `-`, `_` and `.`, and not `local`")?;
        empty_or("role", &|t| ROLES.contains(&t), "it must be all-in-one, controller or host")
    }

    pub fn set(&mut self, name: &'static str, value: &str) {
        self.values.insert(name, value.to_string());
    }
    /// The value of a key of [`KEYS`]; empty for a name that is none.
    pub fn text(&self, name: &str) -> &str {
        self.values.get(name).map(String::as_str).unwrap_or_default()
    }
    pub fn int(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or_default()
    }
    pub fn float(&self, name: &str) -> f64 {
        self.text(name).parse().unwrap_or_default()
    }
    pub fn flag(&self, name: &str) -> bool {
        self.text(name) == "true"
    }
    pub fn home(&self) -> PathBuf {
        PathBuf::from(self.text("home"))
    }
    pub fn listen(&self) -> SocketAddr {
        self.text("listen").parse().unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 5000)))
    }
    /// Base URL of the API as clients should use it, without a slash at the end.
    pub fn public_url(&self) -> String {
        match self.text("public_url") {
            "" if self.listen().ip().is_loopback() => format!("http://{}", self.listen()),
            "" => format!("https://{}", self.listen()),
            url => url.trim_end_matches('/').to_string(),
        }
    }
    /// Where hosts of other machines open their sessions; none when they may not.
    pub fn sessions_url(&self) -> Option<String> {
        let listen: SocketAddr = self.text("hosts.listen").parse().ok()?;
        if !listen.ip().is_unspecified() {
            return Some(format!("https://{listen}"));
        }
        // On every address: then by the name that clients use.
        let host = self.public_host();
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Some(format!("https://{host}:{}", listen.port()))
    }
    /// The name or address in [`Config::public_url`], without the brackets of an IPv6 address.
    pub fn public_host(&self) -> String {
        let url = self.public_url();
        let authority = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest).split('/').next().unwrap_or_default();
        match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address.to_string(),
            None => authority.split(':').next().unwrap_or_default().to_string(),
        }
    }
    pub fn entries(&self) -> impl Iterator<Item = (&'static Key, &str)> {
        KEYS.iter().map(|k| (k, self.text(k.name)))
    }
}

/// The environment variable that overrides a key.
pub fn env_name(key: &str) -> String {
    format!("STURNUS_{}", key.to_uppercase().replace('.', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, env: &[(&str, &str)]) -> Result<Config> {
        let file = std::env::temp_dir().join(format!("config-{}.toml", crate::id::hex()));
        std::fs::write(&file, text).unwrap();
        let loaded = Config::load(&file, true, env.iter().map(|(k, v)| (k.to_string(), v.to_string())));
        std::fs::remove_file(file).unwrap();
        loaded
    }

    #[test]
    fn environment_wins_over_file_and_file_over_default() {
        let config = load("region = \"north\"\n[host]\nname = \"a\"\n", &[("STURNUS_HOST_NAME", "b")]).unwrap();
        assert_eq!((config.text("region"), config.text("host.name"), config.int("api.max_limit")), ("north", "b", 1000));
        assert_eq!(config.public_url(), "http://127.0.0.1:5000");
    }

    #[test]
    fn unknown_keys_and_bad_values_are_told() {
        assert!(load("regoin = \"x\"", &[]).unwrap_err().message().contains("regoin"));
        assert!(load("", &[("STURNUS_API_MAX_LIMIT", "many")]).unwrap_err().message().contains("api.max_limit"));
        assert!(load("", &[("STURNUS_LISTEN", "here")]).is_err());
        for (name, value) in [("hosts.listen", "here"), ("fault.listen", "8001"), ("host.address", "10.0.0"), ("role", "king")] {
            assert!(load("", &[(&env_name(name), value)]).unwrap_err().message().contains(name), "{name}");
        }
    }

    #[test]
    fn hosts_are_sent_where_they_can_come() {
        let url = |listen: &str, public: &str| {
            load("", &[("STURNUS_HOSTS_LISTEN", listen), ("STURNUS_PUBLIC_URL", public)]).unwrap().sessions_url()
        };
        assert_eq!(url("", "https://cloud.example"), None);
        assert_eq!(url("192.0.2.1:5001", "").as_deref(), Some("https://192.0.2.1:5001"));
        assert_eq!(url("0.0.0.0:5001", "https://cloud.example:5000/x").as_deref(), Some("https://cloud.example:5001"));
        assert_eq!(url("[::]:5001", "https://[2001:db8::1]:5000").as_deref(), Some("https://[2001:db8::1]:5001"));
    }
}
