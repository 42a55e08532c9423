//! What reading a configuration needs of the world, so that a test can give it another one.

use std::io;
use std::net::{IpAddr, UdpSocket};

/// The command line, the environment, files, and the address of this machine.
pub struct Surroundings<'a> {
    /// With the program's name in front.
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub read_file: &'a dyn Fn(&str) -> io::Result<Vec<u8>>,
    /// The address of the interface that the default route goes through.
    pub default_host: &'a dyn Fn() -> Result<IpAddr, String>,
    /// Go's name of the processor.
    pub architecture: &'a str,
}

impl Surroundings<'static> {
    /// Those of this process. Bytes that are no UTF-8 become replacement characters.
    pub fn of_this_process() -> Surroundings<'static> {
        Surroundings {
            arguments: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
            environment: std::env::vars_os()
                .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
                .collect(),
            read_file: &|path| std::fs::read(path),
            default_host: &default_host,
            architecture: super::help::go_architecture(std::env::consts::ARCH),
        }
    }
}

/// Connecting a UDP socket sends nothing, but makes the system choose a route and an address. The targets are never
/// reached: they are the documentation's.
fn default_host() -> Result<IpAddr, String> {
    let routes = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    for (own, target) in routes {
        let address = UdpSocket::bind(own).and_then(|socket| {
            socket.connect(target)?;
            socket.local_addr()
        });
        if let Ok(address) = address
            && !address.ip().is_unspecified()
            && !address.ip().is_loopback()
        {
            return Ok(address.ip());
        }
    }
    Err("could not find default route".to_owned())
}
