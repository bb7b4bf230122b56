//! Paths in a module's code.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::module_path::ModulePath;

/// A path in a module's code, made absolute, and the line where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    pub(crate) path: ModulePath,
    pub(crate) line: usize,
}

/// What [`collect`] found in one module.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) names: Vec<(String, ModulePath)>,
    pub(crate) references: Vec<Reference>,
}

/// The items that are compiled into the product.
pub(crate) fn product_code(items: &[syn::Item]) -> impl Iterator<Item = &syn::Item> {
    items.iter().filter(|item| !is_test(item))
}

pub(crate) fn as_module(item: &syn::Item) -> Option<&syn::ItemMod> {
    match item {
        syn::Item::Mod(module) => Some(module),
        _ => None,
    }
}

fn is_test(item: &syn::Item) -> bool {
    let attributes = match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => return false,
    };
    has_cfg_test(attributes)
}

fn has_cfg_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
    })
}

/// Collects the names and the references of the module at `path`; paths may begin with one of `children`.
pub(crate) fn collect(path: &ModulePath, items: &[syn::Item], children: &[String]) -> Found {
    let mut collector = Collector { module: path, children, found: Found::default() };
    for item in product_code(items) {
        match item {
            syn::Item::Mod(_) => {}
            syn::Item::Use(item) => collector.use_item(item),
            item => collector.visit_item(item),
        }
    }
    collector.found
}

struct Collector<'a> {
    module: &'a ModulePath,
    children: &'a [String],
    found: Found,
}

impl Collector<'_> {
    fn use_item(&mut self, item: &syn::ItemUse) {
        let forwards = !matches!(item.vis, syn::Visibility::Inherited);
        let mut leaves = Vec::new();
        leaves_of(&item.tree, &mut Vec::new(), &mut leaves);
        for (name, segments) in leaves {
            let Some(path) = self.absolute(&segments) else { continue };
            if !forwards {
                let line = item.use_token.span.start().line;
                self.found.references.push(Reference { path: path.clone(), line });
            }
            self.found.names.push((name, path));
        }
    }

    /// The path from the crate's root; `None` for a path into another crate or to a name in scope.
    fn absolute(&self, segments: &[String]) -> Option<ModulePath> {
        let (first, rest) = segments.split_first()?;
        let mut base = match first.as_str() {
            "crate" => ModulePath::default(),
            "self" => self.module.clone(),
            "super" => self.module.parent()?,
            name if self.children.iter().any(|child| child == name) => self.module.child(name),
            _ => return None,
        };
        for segment in rest {
            base = match segment.as_str() {
                "super" => base.parent()?,
                "self" => base,
                name => base.child(name),
            };
        }
        Some(base)
    }

    fn refer(&mut self, segments: &[String], line: usize) {
        if segments.len() > 1
            && let Some(path) = self.absolute(segments)
        {
            self.found.references.push(Reference { path, line });
        }
    }

    /// Paths among the tokens of a macro call, whose grammar is the macro's own.
    fn tokens(&mut self, stream: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        let mut line = 0;
        for token in stream {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.refer(&path, line);
                        path.clear();
                    }
                    line = ident.span().start().line;
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.refer(&std::mem::take(&mut path), line);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.refer(&path, line);
    }
}

impl<'ast> Visit<'ast> for Collector<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let line = path.segments.first().map_or(0, |segment| segment.ident.span().start().line);
        if path.leading_colon.is_none() {
            self.refer(&segments, line);
        }
        visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_item(item);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        // `#[serde(with = "crate::…")]` holds a path as text; `#[derive(crate::…)]` as tokens.
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
    }
}

/// The leaves of a `use` tree: the name that each brings into scope, and its path.
fn leaves_of(tree: &syn::UseTree, prefix: &mut Vec<String>, leaves: &mut Vec<(String, Vec<String>)>) {
    let with = |prefix: &[String], last: String| [prefix, &[last]].concat();
    match tree {
        syn::UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            leaves_of(&path.tree, prefix, leaves);
            prefix.pop();
        }
        syn::UseTree::Name(name) if name.ident == "self" => {
            let last = prefix.last().cloned().unwrap_or_default();
            leaves.push((last, prefix.clone()));
        }
        syn::UseTree::Name(name) => leaves.push((name.ident.to_string(), with(prefix, name.ident.to_string()))),
        syn::UseTree::Rename(rename) => {
            leaves.push((rename.rename.to_string(), with(prefix, rename.ident.to_string())))
        }
        syn::UseTree::Glob(_) => leaves.push(("*".to_owned(), prefix.clone())),
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| leaves_of(tree, prefix, leaves)),
    }
}
