// The dashboard follows this as one expression.
import type { Dashboard } from "@grafana/schema";
// an enum as the texts of its values, which JSON has
type Plain<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T : { [K in keyof T]: Plain<T[K]> };
export const dashboard: Plain<Dashboard> =
