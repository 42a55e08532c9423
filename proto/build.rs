//! Generates the Rust side of the .proto files: messages, clients and servers, the descriptor set, and the enum of all
//! RPCs a client can call.
//!
//! ```text
//!   *.proto ──protox──▶ descriptors ──┬─▶ descriptors.bin            FILE_DESCRIPTOR_SET
//!                                     ├─▶ <package>.rs               messages, clients, servers
//!                                     └─▶ rpc.rs                     enum Rpc
//! ```
//! protox stands in for protoc, so building needs nothing but cargo.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use protox::prost::Message as _;

const FILES: [&str; 7] = [
    "etcd/kv.proto",
    "etcd/auth.proto",
    "etcd/rpc.proto",
    "etcd/v3lock.proto",
    "etcd/v3election.proto",
    "grpc/health.proto",
    "castd/internal.proto",
];

/// Packages no client talks to.
const INTERNAL_PACKAGE: &str = "castdpb";

/// Messages that carry a password or what stands for one. Their `Debug` is written by hand, in `src/secrets.rs`.
const SECRET_MESSAGES: [&str; 5] = [
    ".authpb.User",
    ".etcdserverpb.AuthenticateRequest",
    ".etcdserverpb.AuthenticateResponse",
    ".etcdserverpb.AuthUserAddRequest",
    ".etcdserverpb.AuthUserChangePasswordRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);

    let descriptors = protox::compile(FILES, ["."])?;
    fs::write(out.join("rpc.rs"), rpc_enum(&descriptors)?)?;
    fs::write(out.join("descriptors.bin"), without_comments(descriptors.clone()).encode_to_vec())?;

    let mut config = prost_build::Config::new();
    config.bytes(["."]).skip_debug(SECRET_MESSAGES);
    tonic_prost_build::configure().compile_fds_with_config(with_readable_names(descriptors), config)?;
    Ok(())
}

/// The comments are for whoever reads the generated code, not for the binary.
fn without_comments(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    descriptors
}

/// prost would make `peer_ur_ls` of `peerURLs`. Field names are not on the wire, so the generated code may have better
/// ones; the descriptor set, which the JSON gateway's names come from, keeps etcd's.
fn with_readable_names(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    for field in descriptors.file.iter_mut().flat_map(|file| &mut file.message_type).flat_map(|it| &mut it.field) {
        match field.name() {
            "peerURLs" => field.name = Some("peer_urls".to_owned()),
            "clientURLs" => field.name = Some("client_urls".to_owned()),
            _ => {}
        }
    }
    descriptors
}

struct Rpc {
    variant: String,
    service: String,
    method: String,
    kind: &'static str,
}

fn rpcs(descriptors: &FileDescriptorSet) -> Result<Vec<Rpc>, Box<dyn Error>> {
    let mut rpcs = Vec::new();
    for file in descriptors.file.iter().filter(|file| file.package() != INTERNAL_PACKAGE) {
        for service in &file.service {
            for method in &service.method {
                rpcs.push(Rpc {
                    variant: variant(service.name(), method.name()),
                    service: format!("{}.{}", file.package(), service.name()),
                    method: method.name().to_owned(),
                    kind: kind(method)?,
                });
            }
        }
    }
    Ok(rpcs)
}

/// Service and method, said once where the method says the service already: `KvRange`, `LeaseGrant`, `Watch`.
fn variant(service: &str, method: &str) -> String {
    let name = if method.starts_with(service) { method.to_owned() } else { format!("{service}_{method}") };
    name.split('_').map(|part| part.replace("KV", "Kv")).collect()
}

fn kind(method: &MethodDescriptorProto) -> Result<&'static str, String> {
    match (method.client_streaming(), method.server_streaming()) {
        (false, false) => Ok("Unary"),
        (false, true) => Ok("ServerStream"),
        (true, true) => Ok("BidiStream"),
        (true, false) => Err(format!("{} only streams requests, which Kind has no name for", method.name())),
    }
}

fn rpc_enum(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let rpcs = rpcs(descriptors)?;
    let mut code = String::new();
    writeln!(code, "/// Every RPC a client can call, in the order of the .proto files.")?;
    writeln!(code, "#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]")?;
    writeln!(code, "pub enum Rpc {{")?;
    for rpc in &rpcs {
        writeln!(code, "    /// `/{}/{}`", rpc.service, rpc.method)?;
        writeln!(code, "    {},", rpc.variant)?;
    }
    writeln!(code, "}}\n\nimpl Rpc {{")?;
    writeln!(code, "    /// All of them; `ALL[rpc as usize] == rpc`.")?;
    writeln!(code, "    pub const ALL: &'static [Self] = &[")?;
    for rpc in &rpcs {
        writeln!(code, "        Self::{},", rpc.variant)?;
    }
    writeln!(code, "    ];\n")?;
    let of_each = |code: &mut String, head: &str, value: &dyn Fn(&Rpc) -> String| {
        writeln!(code, "    {head} {{\n        match self {{")?;
        for rpc in &rpcs {
            writeln!(code, "            Self::{} => {},", rpc.variant, value(rpc))?;
        }
        writeln!(code, "        }}\n    }}\n")
    };
    writeln!(code, "    /// The path of the HTTP/2 request, `/etcdserverpb.KV/Range`.")?;
    of_each(&mut code, "pub const fn path(self) -> &'static str", &|rpc| {
        format!("\"/{}/{}\"", rpc.service, rpc.method)
    })?;
    writeln!(code, "    /// With its package, `etcdserverpb.KV`.")?;
    of_each(&mut code, "pub const fn service(self) -> &'static str", &|rpc| format!("{:?}", rpc.service))?;
    writeln!(code, "    /// `Range`.")?;
    of_each(&mut code, "pub const fn method(self) -> &'static str", &|rpc| format!("{:?}", rpc.method))?;
    of_each(&mut code, "pub const fn streaming(self) -> Kind", &|rpc| format!("Kind::{}", rpc.kind))?;
    writeln!(code, "    /// The RPC a request's path names, if there is one.")?;
    writeln!(code, "    pub fn from_path(path: &str) -> Option<Self> {{\n        match path {{")?;
    for rpc in &rpcs {
        writeln!(code, "            \"/{}/{}\" => Some(Self::{}),", rpc.service, rpc.method, rpc.variant)?;
    }
    writeln!(code, "            _ => None,\n        }}\n    }}\n}}")?;
    Ok(code)
}
