//! How it looks, from one line by one letter on.

use super::model::Model;
use super::pages::Row;
use crate::state::State;
use crate::table::{self, Look};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row as TableRow, Table, TableState, Wrap};
use std::time::Duration;

const KEYS: &str = " 1 sites  2 gateways  3 tunnels  enter in  esc back  / filter  ? help  q quit";

const HELP: &str = " up, down, k, j       a line
 PgUp, PgDn, g, G     ten lines, the first, the last
 enter, right, l      into what is marked
 esc, left, h         back
 1, 2, 3              sites, gateways, tunnels
 /                    only lines with these letters;
                      enter keeps them, esc drops them
 q, ctrl-c            quit

 ● up   ▲ degraded: one end, or some tunnels
 ✕ down   ? unknown: no report lately";

/// All of the screen; `now` as the model's own times are.
pub(super) fn draw(frame: &mut Frame, model: &Model, now: Duration, look: Look) {
    let [head, way, list, words, foot] = Layout::vertical([
        Constraint::Length(if model.error.is_some() { 2 } else { 1 }),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let rows = model.rows();
    let line = model.place().line(&rows);
    frame.render_widget(headline(model, now, look), head);
    frame.render_widget(path(model, rows.len()), way);
    self::list(frame, list, model, &rows, line, look);
    let marked = rows.get(line).map_or("", |row| row.words.as_str());
    let marked = Paragraph::new(plain(marked)).wrap(Wrap { trim: true });
    frame.render_widget(
        marked.block(Block::new().borders(ratatui::widgets::Borders::TOP)),
        words,
    );
    frame.render_widget(self::foot(model), foot);
    if model.help {
        let area = frame.area();
        let lines = u16::try_from(HELP.lines().count()).unwrap_or(u16::MAX);
        let box_of = Rect {
            width: area.width.min(56),
            height: area.height.min(lines.saturating_add(2)),
            ..area
        };
        let middle = Rect {
            x: area.x + (area.width - box_of.width) / 2,
            y: area.y + (area.height - box_of.height) / 2,
            ..box_of
        };
        frame.render_widget(Clear, middle);
        let help = Paragraph::new(HELP).block(Block::bordered().title(" keys "));
        frame.render_widget(help, middle);
    }
}

/// How the mesh is, and how old the news is; or why there is none.
fn headline(model: &Model, now: Duration, look: Look) -> Paragraph<'static> {
    let age = table::span(now.saturating_sub(model.heard).as_secs());
    let (text, colour) = match (&model.topology, &model.error) {
        (None, None) => ("asking the controller".to_owned(), None),
        (None, Some(error)) => (plain(error), Some(Color::Red)),
        (Some(topology), None) => (format!("{}, {age} ago", table::sum(topology)), None),
        (Some(_), Some(error)) => (format!("{age} OLD: {}", plain(error)), Some(Color::Red)),
    };
    Paragraph::new(text)
        .wrap(Wrap { trim: true })
        .style(painted(colour, look).add_modifier(Modifier::BOLD))
}

fn path(model: &Model, rows: usize) -> Paragraph<'static> {
    let pages: Vec<String> = model.pages().map(|it| plain(&it.title())).collect();
    let filter = match model.filter.as_str() {
        "" => String::new(),
        filter => format!("   with \"{}\"", plain(filter)),
    };
    let mut words = format!("{} ({rows}){filter}", pages.join(" > "));
    if let Some(topology) = &model.topology {
        let counts = table::counts(topology);
        let all: u64 = State::ALL.iter().map(|it| it.counted(&counts)).sum();
        if (topology.edges.len() as u64) < all {
            words += "   not all tunnels are listed: see --site, --gateway, --state";
        }
    }
    Paragraph::new(words)
}

fn list(frame: &mut Frame, area: Rect, model: &Model, rows: &[Row], line: usize, look: Look) {
    let columns = model.place().page.columns();
    let widths = columns.iter().map(|(_, share)| Constraint::Fill(*share));
    let sign = |row: &Row| match row.state {
        None => Cell::new(" "),
        Some(state) => {
            let (sign, colour) = match state {
                State::Up => ("●", Color::Green),
                State::Degraded => ("▲", Color::Yellow),
                State::Down => ("✕", Color::Red),
                State::Unknown => ("?", Color::DarkGray),
            };
            Cell::new(Span::styled(sign, painted(Some(colour), look)))
        }
    };
    let shown = rows.iter().map(|row| {
        let cells = row.cells.iter().map(|it| Cell::new(plain(it)));
        TableRow::new([sign(row)].into_iter().chain(cells))
    });
    let titles = columns.iter().map(|(title, _)| *title);
    let header = [""].into_iter().chain(titles).map(Cell::new);
    let table = Table::new(shown, [Constraint::Length(1)].into_iter().chain(widths))
        .header(TableRow::new(header).style(Style::new().add_modifier(Modifier::BOLD)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected((!rows.is_empty()).then_some(line));
    frame.render_stateful_widget(table, area, &mut state);
}

fn foot(model: &Model) -> Paragraph<'static> {
    match model.typing {
        true => Paragraph::new(Line::from(format!("/{}█", plain(&model.filter)))),
        false => Paragraph::new(KEYS).style(Style::new().add_modifier(Modifier::DIM)),
    }
}

fn painted(colour: Option<Color>, look: Look) -> Style {
    match colour.filter(|_| look.has_colour()) {
        Some(colour) => Style::new().fg(colour),
        None => Style::new(),
    }
}

/// One line, and nothing that a terminal would take for an order.
fn plain(text: &str) -> String {
    let letters = text.chars();
    letters
        .map(|it| if it.is_control() { ' ' } else { it })
        .collect()
}
