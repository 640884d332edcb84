//! One run of the virtual machine: QEMU without hardware virtualisation, whose only output is the
//! lines that the cases write.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::image::failed;
use crate::checks::Stop;
use crate::shell;

/// Seconds until the first case begins: 30 times what it takes on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// Beyond a case's own limit, which the machine enforces itself.
const GRACE: Duration = Duration::from_secs(30);

/// Seconds for everything.
const TOTAL_LIMIT: Duration = Duration::from_secs(1200);

/// Megabytes of memory; what cases write goes there too.
const MEMORY: &str = "3072";

/// A line from the machine.
#[derive(Debug, PartialEq)]
pub(crate) enum Line {
    Booted,
    /// The devices could not be made.
    Broken(String),
    Begin(usize),
    /// Number of the case, exit status.
    End(usize, i32),
    Done,
    /// What a case printed.
    Text(String),
}

impl Line {
    fn parse(line: &str) -> Line {
        let text = || Line::Text(line.to_owned());
        let Some(words) = line.strip_prefix("@@ ") else {
            return text();
        };
        let mut words = words.splitn(3, ' ');
        let mut next = || words.next().unwrap_or_default();
        match (next(), next(), next()) {
            ("booted", ..) => Line::Booted,
            ("done", ..) => Line::Done,
            ("broken", a, b) => Line::Broken(format!("{a} {b}")),
            ("begin", number, _) => number.parse().map_or_else(|_| text(), Line::Begin),
            ("end", number, status) => match (number.parse(), status.parse()) {
                (Ok(number), Ok(status)) => Line::End(number, status),
                _ => text(),
            },
            _ => text(),
        }
    }
}

/// A running machine. It is killed when this is dropped.
pub(crate) struct Machine {
    qemu: Child,
    lines: Receiver<String>,
    /// Until when the next line that begins or ends something has to come.
    next: Instant,
    last: Instant,
}

impl Machine {
    /// Boots `image` with the control files in `control`, to which it writes its console too.
    pub(crate) fn boot(image: &Path, control: &Path) -> Result<Machine, Stop> {
        let log = control.join("qemu.log");
        let log = File::create(&log).map_err(|error| failed(&log, &error))?;
        let mut command = qemu(image, control);
        eprintln!(
            "$ qemu-system-x86_64, console in {}",
            control.join("console").display()
        );
        let mut qemu = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| Stop::Fail(format!("qemu-system-x86_64: {error}")))?;
        let (sender, lines) = mpsc::channel();
        if let Some(output) = qemu.stdout.take() {
            thread::spawn(move || {
                let read = BufReader::new(output).split(b'\n');
                for line in read.map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let now = Instant::now();
        Ok(Machine {
            qemu,
            lines,
            next: now + BOOT_LIMIT,
            last: now + TOTAL_LIMIT,
        })
    }

    /// The next line, or why there is none.
    pub(crate) fn line(&mut self) -> Result<Line, String> {
        let until = self.next.min(self.last);
        let left = until.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => Ok(Line::parse(&line)),
            Err(RecvTimeoutError::Disconnected) => Err("the machine ended".to_owned()),
            Err(RecvTimeoutError::Timeout) if until == self.last => {
                let seconds = TOTAL_LIMIT.as_secs();
                Err(format!("everything took more than {seconds} s"))
            }
            Err(RecvTimeoutError::Timeout) => Err("the machine does not answer".to_owned()),
        }
    }

    /// The next case may take `limit`.
    pub(crate) fn allow(&mut self, limit: Duration) {
        self.next = Instant::now() + limit + GRACE;
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// What the last lines of the console say, for a machine that ended too early.
pub(crate) fn last_words(control: &Path) -> String {
    let mut text = String::new();
    for name in ["qemu.log", "console"] {
        let bytes = fs::read(control.join(name)).unwrap_or_default();
        let all = String::from_utf8_lossy(&bytes).into_owned();
        let lines: Vec<&str> = all.lines().collect();
        for line in &lines[lines.len().saturating_sub(10)..] {
            text = text + line + "\n";
        }
    }
    text
}

fn qemu(image: &Path, control: &Path) -> Command {
    // Whatever becomes of us, it ends.
    let mut command = Command::new("timeout");
    let limit = (TOTAL_LIMIT + GRACE).as_secs().to_string();
    command.args(["--foreground", "-k", "5", &limit, "qemu-system-x86_64"]);
    // Nehalem: rxe is twice as slow with what a newer processor would emulate.
    command.args([
        "-accel",
        "tcg,thread=multi,tb-size=512",
        "-cpu",
        "Nehalem-v1",
    ]);
    command.args(["-m", MEMORY, "-smp", "2", "-nodefaults", "-no-user-config"]);
    command.args(["-display", "none", "-no-reboot", "-nic", "none"]);
    command.arg("-kernel").arg(image.join("vmlinux"));
    command.arg("-initrd").arg(image.join("initrd"));
    let append = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on";
    command.args(["-append", append]);
    let console = format!("file:{}", control.join("console").display());
    command.args(["-serial", &console, "-device", "virtio-serial-pci"]);
    command.args(["-chardev", "file,id=out,path=/dev/stdout"]);
    command.args(["-device", "virtserialport,chardev=out,nr=1"]);
    share(&mut command, Path::new("/"), "root", true);
    share(&mut command, &image.join("sysroot"), "sysroot", true);
    share(&mut command, control, "ctl", false);
    command
}

fn share(command: &mut Command, dir: &Path, tag: &str, read_only: bool) {
    let read_only = if read_only { ",readonly=on" } else { "" };
    let dir = dir.display();
    command.arg("-virtfs").arg(format!(
        "local,path={dir},mount_tag={tag}{read_only},security_model=none,multidevs=remap"
    ));
}

/// Why no machine can be run here, if so.
pub(crate) fn lacks() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the machine is an x86-64 one".to_owned());
    }
    let programs = ["qemu-system-x86_64", "timeout", "ip", "rdma"];
    let missing = programs.iter().find(|name| shell::which(name).is_none())?;
    Some(format!("no {missing} (Debian: qemu-system-x86, iproute2)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_machine_are_told_from_those_of_cases() {
        assert_eq!(Line::parse("@@ booted"), Line::Booted);
        assert_eq!(Line::parse("@@ begin 3"), Line::Begin(3));
        assert_eq!(Line::parse("@@ end 3 124"), Line::End(3, 124));
        assert_eq!(Line::parse("@@ done"), Line::Done);
        let broken = Line::Broken("no rxe here".to_owned());
        assert_eq!(Line::parse("@@ broken no rxe here"), broken);
        for text in ["@@ end x 1", "@@ what", "booted", ""] {
            assert_eq!(Line::parse(text), Line::Text(text.to_owned()));
        }
    }
}
