//! What is looked at, and what a key makes of it.

use super::pages::{Page, Row, rows};
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use routemesh_proto::Topology;
use std::time::Duration;

/// What the controller says, or why it says nothing.
pub(super) type News = Result<Box<Topology>, String>;

/// Nobody looks for more than that.
const LONGEST_FILTER: usize = 64;
/// By which PageUp and PageDown go.
const LEAP: isize = 10;

/// A page, and where one is on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) page: Page,
    /// Of the row, which may move while one looks.
    key: Option<String>,
    /// Where the row was, should it be gone.
    line: usize,
}

impl Place {
    fn of(page: Page) -> Self {
        Self {
            page,
            ..Self::default()
        }
    }

    /// The line that is marked.
    pub(super) fn line(&self, rows: &[Row]) -> usize {
        let same = |row: &Row| Some(&row.key) == self.key.as_ref();
        let found = rows.iter().position(same);
        found.unwrap_or_else(|| self.line.min(rows.len().saturating_sub(1)))
    }
}

#[derive(Debug, Default)]
pub(super) struct Model {
    /// The last answer that there was.
    pub(super) topology: Option<Box<Topology>>,
    /// When it came.
    pub(super) heard: Duration,
    /// Why there is none since then.
    pub(super) error: Option<String>,
    /// The page that is shown, and those that lead there.
    place: Place,
    way: Vec<Place>,
    /// Only rows with these letters.
    pub(super) filter: String,
    /// The filter is being typed.
    pub(super) typing: bool,
    pub(super) help: bool,
    done: bool,
}

impl Model {
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    pub(super) fn hear(&mut self, news: News, now: Duration) {
        match news {
            Ok(topology) => {
                self.topology = Some(topology);
                self.heard = now;
                self.error = None;
            }
            Err(error) => self.error = Some(error),
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// From the first page to this one.
    pub(super) fn pages(&self) -> impl Iterator<Item = &Page> {
        let way = self.way.iter().map(|it| &it.page);
        way.chain([&self.place.page])
    }

    /// What is on the page, as far as the filter lets it.
    pub(super) fn rows(&self) -> Vec<Row> {
        let Some(topology) = &self.topology else {
            return Vec::new();
        };
        let wanted = self.filter.to_lowercase();
        let mut rows = rows(topology, &self.place.page);
        rows.retain(|row| row.has(&wanted));
        rows
    }

    pub(super) fn press(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => self.done = true,
            _ if self.help => self.help = false,
            code if self.typing => self.type_filter(code),
            KeyCode::Char('q') => self.done = true,
            KeyCode::Char('?') => self.help = true,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('1') => self.start(Page::Sites),
            KeyCode::Char('2') => self.start(Page::Gateways { of: None }),
            KeyCode::Char('3') => self.start(Page::Tunnels { of: None }),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::PageUp => self.go(-LEAP),
            KeyCode::PageDown => self.go(LEAP),
            KeyCode::Home | KeyCode::Char('g') => self.go(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.go(isize::MAX),
            KeyCode::Enter | KeyCode::Right | KeyCode::Char('l') => self.enter(),
            KeyCode::Esc if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Esc | KeyCode::Left | KeyCode::Backspace | KeyCode::Char('h') => self.leave(),
            _ => {}
        }
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) if self.filter.len() < LONGEST_FILTER => self.filter.push(letter),
            _ => {}
        }
    }

    fn start(&mut self, page: Page) {
        self.place = Place::of(page);
        self.way.clear();
        self.filter.clear();
    }

    fn go(&mut self, by: isize) {
        let rows = self.rows();
        let last = rows.len().saturating_sub(1);
        let line = self.place.line(&rows).saturating_add_signed(by).min(last);
        self.place.line = line;
        self.place.key = rows.get(line).map(|row| row.key.clone());
    }

    fn enter(&mut self) {
        // Marks the row, so that one comes back to it.
        self.go(0);
        let Some(next) = self
            .place
            .key
            .as_deref()
            .and_then(|key| self.place.page.within(key))
        else {
            return;
        };
        let here = std::mem::replace(&mut self.place, Place::of(next));
        self.way.push(here);
        self.filter.clear();
    }

    fn leave(&mut self) {
        if let Some(before) = self.way.pop() {
            self.place = before;
            self.filter.clear();
        }
    }
}
