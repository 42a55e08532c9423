//! Listening on a path: `unix:///run/castd.sock`, or `unix://localhost:2379`, a file of that name in the working directory.
//!
//! A member that was killed leaves its socket behind. The next start replaces it, but only a socket on which nobody
//! listens: etcd removes whatever it finds there, somebody's file or another member's live socket.

use super::socket::{ListenError, as_go_says};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Whoever may connect may do everything, so it is the owner alone.
const SOCKET_MODE: u32 = 0o600;

#[derive(Debug, thiserror::Error)]
pub enum UnixError {
    #[error("{step}: {}", as_go_says(.source))]
    Socket { step: &'static str, source: io::Error },
    #[error("bind: address already in use: another process listens on it")]
    InUse,
    #[error("bind: the path is taken by something that is not a socket; remove it, or name another path")]
    NotASocket,
}

/// The file of a socket, removed on drop unless another one has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |file: std::fs::Metadata| file.dev() == self.device && file.ino() == self.inode;
        if std::fs::symlink_metadata(&self.path).is_ok_and(ours) {
            // What stays behind is replaced by the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Bound and listening on a path.
#[derive(Debug)]
pub struct UnixSocket {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
}

pub(super) fn bind(path: &Path, backlog: i32) -> Result<UnixSocket, ListenError> {
    bind_path(path, backlog).map_err(|source| ListenError::Unix { path: path.to_owned(), source })
}

fn bind_path(path: &Path, backlog: i32) -> Result<UnixSocket, UnixError> {
    let failed = |step| move |source| UnixError::Socket { step, source };
    let address = SockAddr::unix(path).map_err(failed("bind"))?;
    clear(path, &address)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed("socket"))?;
    socket.bind(&address).map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => UnixError::InUse,
        _ => UnixError::Socket { step: "bind", source },
    })?;
    let file = std::fs::symlink_metadata(path).map_err(failed("stat"))?;
    let file = SocketFile { path: path.to_owned(), device: file.dev(), inode: file.ino() };
    // Nobody can connect before `listen`.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed("chmod"))?;
    socket.listen(backlog).map_err(failed("listen"))?;
    Ok(UnixSocket { listener: socket.into(), file })
}

/// Removes a socket that its owner has left behind.
fn clear(path: &Path, address: &SockAddr) -> Result<(), UnixError> {
    match std::fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {}
        Ok(_) => return Err(UnixError::NotASocket),
        // Nothing there, or bind will say what is wrong with the path.
        Err(_) => return Ok(()),
    }
    let failed = |step| move |source| UnixError::Socket { step, source };
    let knock = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed("socket"))?;
    // One whose queue is full is alive, and must not be waited for.
    knock.set_nonblocking(true).map_err(failed("socket"))?;
    match knock.connect(address) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(UnixError::Socket { step: "remove", source: error })
            }
            _ => Ok(()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(UnixError::Socket { step: "connect", source: error })
        }
        Ok(()) | Err(_) => Err(UnixError::InUse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path) -> String {
        bind(path, 8).unwrap_err().to_string()
    }

    #[test]
    fn a_socket_is_the_owners_alone_and_goes_with_its_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let socket = bind(&path, 8).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, SOCKET_MODE);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_process_left_behind_is_replaced_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        // Dropped without its file: as after a kill.
        drop(UnixListener::bind(&path).unwrap());
        let live = bind(&path, 8).unwrap();
        let shown = path.display();
        assert_eq!(
            text(&path),
            format!("listen unix {shown}: bind: address already in use: another process listens on it")
        );
        assert!(path.exists());
        drop(live);
        std::fs::write(&path, "precious").unwrap();
        assert!(text(&path).contains("is not a socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_socket_whose_queue_is_full_is_alive() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _live = bind(&path, 0).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            match client.connect(&SockAddr::unix(&path).unwrap()) {
                Ok(()) => waiting.push(client),
                Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        assert!(text(&path).contains("another process listens on it"));
    }

    #[test]
    fn a_listener_does_not_remove_the_socket_that_took_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let first = bind(&path, 8).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _second = bind(&path, 8).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn a_path_that_cannot_be_is_told_as_etcd_does() {
        let directory = tempfile::tempdir().unwrap();
        assert!(text(&directory.path().join("no/s")).ends_with("no/s: bind: no such file or directory"));
        assert!(text(&directory.path().join("x".repeat(200))).contains("path must be shorter"));
    }
}
