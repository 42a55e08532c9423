//! The commands of `docs/operations.md`.
//!
//! ```text
//!   ```sh grow m2,m3        a block of the runbook "grow", for the machines m2 and then m3
//!   ```sh settings machine  variables, of which a test has its own values
//! ```
//! `any` stands for a shell anywhere, `new` for the machine that joins.

const TEXT: &str = include_str!("../../../docs/operations.md");

/// Whose variables a test replaces.
pub const SETTINGS: &str = "settings";

#[derive(Clone, Debug)]
pub struct Block {
    pub runbook: String,
    /// Where it is to be run, one after the other.
    pub machines: Vec<String>,
    pub commands: String,
    /// For whoever looks for it.
    pub line: usize,
}

/// All of them, in the order of the page. A block that nobody could run is an error.
pub fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in TEXT.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(label), None) => {
                let words: Vec<&str> = label.split(' ').collect();
                let &["sh", runbook, machines] = &words[..] else {
                    panic!("docs/operations.md:{}: {line:?} is not of the form \"```sh runbook machines\"", number + 1);
                };
                let machines = machines.split(',').map(str::to_owned).collect();
                let (runbook, commands) = (runbook.to_owned(), String::new());
                open = Some(Block { runbook, machines, commands, line: number + 1 });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => {
                block.commands += line;
                block.commands.push('\n');
            }
            (None, None) => assert!(!line.trim_start().starts_with("```"), "line {}: an indented block", number + 1),
        }
    }
    assert!(open.is_none(), "the last block does not end");
    blocks
}

/// The blocks of one runbook.
pub fn runbook(name: &str) -> Vec<Block> {
    let blocks: Vec<Block> = blocks().into_iter().filter(|block| block.runbook == name).collect();
    assert!(!blocks.is_empty(), "docs/operations.md has no block of {name:?}");
    blocks
}

/// The names of the variables that a block of settings gives.
pub fn settings(of: &str) -> Vec<String> {
    let mut found = runbook(SETTINGS).into_iter().filter(|block| block.machines == [of]);
    let (Some(block), None) = (found.next(), found.next()) else { panic!("not one block of settings for {of}") };
    let name = |line: &str| {
        line.strip_prefix("export ").and_then(|rest| rest.split_once('=')).map(|(name, _)| name.to_owned())
    };
    block.commands.lines().map(|line| name(line).unwrap_or_else(|| panic!("{line:?} is not a setting"))).collect()
}
