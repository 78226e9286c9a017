//! A shell on a machine, as an administrator has one open: what is exported and where one is stays for the next line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// For one line to end.
const DEADLINE: Duration = Duration::from_secs(60);
/// No command says this.
const END: &str = "-- the end of this line, with";

/// It ends with its value.
pub struct Shell {
    bash: Child,
    input: ChildStdin,
    said: Receiver<String>,
}

impl Shell {
    /// By a command that runs `bash` at the right place.
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut bash = command.spawn().expect("a shell");
        let input = bash.stdin.take().expect("piped");
        let output = BufReader::new(bash.stdout.take().expect("piped"));
        let (tell, said) = channel();
        thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| tell.send(line))
        });
        let mut shell = Self { bash, input, said };
        assert_eq!(shell.run("exec 2>&1; cd").0, 0);
        shell
    }

    /// Carries out a line, for which nobody is at the keyboard; its status, and what was said.
    pub fn run(&mut self, line: &str) -> (i32, String) {
        let line = format!("{{ {line}\n}} </dev/null\necho \"{END} $?\"\n");
        self.input.write_all(line.as_bytes()).expect("it listens");
        let mut all = String::new();
        loop {
            let said = self.said.recv_timeout(DEADLINE);
            let said = said.unwrap_or_else(|_| panic!("no end of {line}{all}"));
            match said.split_once(END) {
                Some((rest, status)) => {
                    return (status.trim().parse().expect("a status"), all + rest);
                }
                None => all = all + &said + "\n",
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // By itself: of a bash whose nsenter was killed there is nobody to take leave.
        let left = self.input.write_all(b"exit\n");
        if left.is_err() {
            let _ = self.bash.kill();
        }
        let _ = self.bash.wait();
    }
}
